//! Lists as tables, and one resource as a list of its fields.

use super::{Format, json};
use comfy_table::{Cell, Table, presets::NOTHING};
use serde::Serialize;
use serde_json::Value;

/// How a resource looks in a table.
pub(crate) trait Row: Serialize {
    /// Column names; the last `WIDE` of them are only in `-o wide`.
    const COLUMNS: &'static [&'static str];
    const WIDE: usize = 0;
    /// What `-o name` prints.
    fn id(&self) -> String;
    /// One text for each column.
    fn cells(&self) -> Vec<String>;
}

/// Prints a list in the wanted form.
pub(crate) fn print<T: Row>(format: Format, rows: &[T]) {
    match format {
        Format::Json => json::print(rows),
        Format::Name => rows.iter().for_each(|row| println!("{}", row.id())),
        Format::Table | Format::Wide => {
            let text = render(format == Format::Wide, rows);
            text.lines().for_each(|line| println!("{}", line.trim_end()));
        }
    }
}

fn render<T: Row>(wide: bool, rows: &[T]) -> String {
    let shown = T::COLUMNS.len() - if wide { 0 } else { T::WIDE };
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(T::COLUMNS.iter().take(shown).map(Cell::new));
    for row in rows {
        table.add_row(
            row.cells()
                .into_iter()
                .take(shown)
                .map(|text| Cell::new(if text.is_empty() { "-".to_owned() } else { text })),
        );
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.to_string()
}

/// Prints one resource: each field that is set, on a line of its own.
pub(crate) fn print_one<T: Row>(format: Format, row: &T) {
    match format {
        Format::Json => json::print(row),
        Format::Name => println!("{}", row.id()),
        Format::Table | Format::Wide => {
            let mut lines = Vec::new();
            if let Ok(value) = serde_json::to_value(row) {
                flatten("", &value, &mut lines);
            }
            let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            for (name, value) in lines {
                println!("{name:width$}  {value}");
            }
        }
    }
}

fn flatten(name: &str, value: &Value, lines: &mut Vec<(String, String)>) {
    match value {
        Value::Null => {}
        Value::String(text) if text.is_empty() => {}
        Value::String(text) => lines.push((name.to_owned(), text.clone())),
        Value::Bool(_) | Value::Number(_) => lines.push((name.to_owned(), value.to_string())),
        Value::Array(items) if items.iter().all(Value::is_string) => {
            let texts: Vec<_> = items.iter().filter_map(Value::as_str).collect();
            if !texts.is_empty() {
                lines.push((name.to_owned(), texts.join(", ")));
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                flatten(&format!("{name}[{index}]"), item, lines);
            }
        }
        Value::Object(fields) => {
            for (field, value) in fields {
                let path = if name.is_empty() { field.clone() } else { format!("{name}.{field}") };
                flatten(&path, value, lines);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Thing {
        id: &'static str,
        note: &'static str,
        parts: Vec<Part>,
    }
    #[derive(Serialize)]
    struct Part {
        size: u32,
    }
    impl Row for Thing {
        const COLUMNS: &'static [&'static str] = &["ID", "NOTE"];
        const WIDE: usize = 1;
        fn id(&self) -> String {
            self.id.to_owned()
        }
        fn cells(&self) -> Vec<String> {
            vec![self.id.to_owned(), self.note.to_owned()]
        }
    }

    #[test]
    fn only_wide_shows_the_wide_columns_and_nothing_is_a_dash() {
        let rows = [Thing { id: "a-1", note: "", parts: vec![] }];
        assert!(!render(false, &rows).contains("NOTE"));
        let wide = render(true, &rows);
        assert!(wide.contains("NOTE") && wide.contains('-'), "{wide}");
    }

    #[test]
    fn one_resource_shows_each_set_field_with_its_path() {
        let thing = Thing { id: "a-1", note: "", parts: vec![Part { size: 3 }] };
        let mut lines = Vec::new();
        flatten("", &serde_json::to_value(&thing).unwrap(), &mut lines);
        let expected =
            vec![("id".to_owned(), "a-1".to_owned()), ("parts[0].size".to_owned(), "3".to_owned())];
        assert_eq!(lines, expected);
    }
}
