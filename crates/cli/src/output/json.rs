//! Answers as JSON.

use serde::Serialize;

/// Prints a value; the field names are those of proto/ecs/v1.
pub(crate) fn print<T: Serialize + ?Sized>(value: &T) {
    match serde_json::to_string_pretty(value) {
        Ok(text) => println!("{text}"),
        Err(e) => eprintln!("ecsctl: cannot show the answer as JSON: {e}"),
    }
}
