//! The kernel's command line.

use crate::error::Error;

/// x86 kernels cut what is longer (`COMMAND_LINE_SIZE`), the terminating zero included.
const BYTES: usize = 2048;

/// Adds what the entry left out: where the root filesystem is, and a serial console.
pub(crate) fn complete(options: &str, root: Option<&str>) -> Result<String, Error> {
    // A line break would end the options in other programs' eyes; the kernel takes it as a space.
    let mut line = options.split_whitespace().collect::<Vec<_>>().join(" ");
    line.retain(|c| c != '\0');
    let mut add = |option: &str| {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(option);
    };
    if let Some(root) = root
        && !has(options, "root=")
    {
        add(root);
    }
    if !has(options, "console=ttyS") {
        add("console=ttyS0,115200");
    }
    if line.len() >= BYTES {
        return Err(Error::TooLarge {
            what: format!("the kernel's command line with {} bytes", line.len()),
            limit: format!("{} bytes", BYTES - 1),
            remedy: "shorten it in the image's boot loader configuration",
        });
    }
    Ok(line)
}

/// Whether an option that starts so is there, before the `--` that ends the kernel's own options.
fn has(options: &str, start: &str) -> bool {
    options
        .split_whitespace()
        .take_while(|option| *option != "--")
        .any(|option| option.trim_start_matches('"').starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_serial_console_is_added_once() {
        let line = |options: &str| complete(options, None).expect("short");
        assert_eq!(line("ro quiet"), "ro quiet console=ttyS0,115200");
        assert_eq!(line("console=tty0"), "console=tty0 console=ttyS0,115200");
        assert_eq!(line("console=tty0 console=ttyS0"), "console=tty0 console=ttyS0");
        assert_eq!(line(""), "console=ttyS0,115200");
    }

    #[test]
    fn root_is_added_only_where_it_is_missing() {
        let line = |options: &str| complete(options, Some("root=UUID=x")).expect("short");
        assert_eq!(line("ro console=ttyS0"), "ro console=ttyS0 root=UUID=x");
        assert_eq!(line("root=/dev/vda1 console=ttyS0"), "root=/dev/vda1 console=ttyS0");
    }

    #[test]
    fn too_long_a_line_is_refused() {
        let error = complete(&"x ".repeat(2000), None).expect_err("too long");
        assert_eq!(error.code(), "ImageBootFailed.TooLarge");
    }
}
