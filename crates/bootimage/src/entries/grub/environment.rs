//! The environment block, `grubenv`.

/// Variables for one boot only. They would have to be cleared on the disk after use, and the disk
/// is read-only here, so the entry they name would be booted for ever.
const ONCE: &[&str] = &["next_entry", "prev_saved_entry", "prev_entry", "boot_once", "recordfail"];

/// `name=value` lines of the block.
pub(super) fn parse(text: &str) -> Vec<(String, String)> {
    let mut variables = Vec::new();
    for line in text.lines() {
        if line.starts_with('#') {
            continue;
        }
        if let Some((name, value)) = line.split_once('=')
            && !name.is_empty()
            && !ONCE.contains(&name)
        {
            variables.push((name.to_owned(), value.replace("\\\\", "\\")));
        }
    }
    variables
}
