//! `ecsctl` as a program: what shells and scripts see of it.

use std::{
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    process::{Command, Output, Stdio},
};

fn ecsctl(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ecsctl"));
    command.args(arguments).env_remove("ECS_ENDPOINT").env("ECS_LAB_DIR", "/nonexistent");
    command
}

fn output(arguments: &[&str]) -> Output {
    ecsctl(arguments).output().expect("ecsctl does not start")
}

#[test]
fn a_reader_that_has_gone_is_no_crash() {
    // The pipe's other end is closed before the program writes.
    for arguments in [&["completion", "bash"][..], &["lab", "probe", "--here"]] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = ecsctl(arguments).stdout(writer).output().unwrap();
        assert_eq!(output.status.signal(), None, "{arguments:?}: {output:?}");
        assert_eq!(output.status.code(), Some(141), "{arguments:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{output:?}");
    }
}

#[test]
fn completions_name_the_commands_and_bash_reads_its_own() {
    for shell in ["bash", "zsh", "fish"] {
        let script = output(&["completion", shell]);
        assert!(script.status.success(), "{script:?}");
        let text = String::from_utf8(script.stdout).unwrap();
        assert!(text.contains("security-group") && text.contains("ecsctl"), "{shell}: {text}");
        if shell == "bash" {
            let mut bash = Command::new("bash").arg("-n").stdin(Stdio::piped()).spawn().unwrap();
            bash.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            assert!(bash.wait().unwrap().success());
        }
    }
}

#[test]
fn the_quiet_probe_says_by_its_exit_code_what_the_other_says_in_words() {
    let words = output(&["lab", "probe"]);
    assert!(words.status.success(), "{words:?}");
    let stock = String::from_utf8_lossy(&words.stdout).contains("stock guests run here");
    let quiet = output(&["lab", "probe", "--quiet"]);
    assert_eq!(quiet.status.code(), Some(if stock { 0 } else { 1 }), "{quiet:?}");
    assert!(quiet.stdout.is_empty() && quiet.stderr.is_empty(), "{quiet:?}");
    let json = output(&["lab", "probe", "-o", "json"]);
    let json: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(json["stock_guests"], stock);
}

#[test]
fn an_absent_cloud_is_exit_code_5() {
    let absent = output(&["--endpoint", "http://127.0.0.1:1", "vpc", "list"]);
    assert_eq!(absent.status.code(), Some(5), "{absent:?}");
    assert!(String::from_utf8_lossy(&absent.stderr).contains("ecsctl lab up"), "{absent:?}");
}
