//! The `ecs-vmm` command as its callers see it: exit codes and messages. Needs no KVM.

#![allow(clippy::unwrap_used, reason = "tests may panic")]

use std::{
    fs::OpenOptions,
    process::{Command, Output},
};

fn ecs_vmm(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ecs-vmm")).args(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn run_config(json: &str) -> Output {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("machine.json");
    std::fs::write(&path, json).unwrap();
    ecs_vmm(&["run", "--config", path.to_str().unwrap()])
}

#[test]
fn a_description_that_is_none_is_refused_with_code_64_and_a_place() {
    let output = run_config("{\"vcpus\": \"many\"}");
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("line 1"), "{}", stderr(&output));
    let output = ecs_vmm(&["run", "--config", "/nonexistent/machine.json"]);
    assert_eq!(output.status.code(), Some(64));
    assert!(stderr(&output).contains("/nonexistent/machine.json"));
}

#[test]
fn a_bad_field_is_refused_with_code_64_its_name_and_the_fix() {
    let output = run_config(
        r#"{"instance_id": "i-1", "uuid": "00112233-4455-6677-8899-aabbccddeeff", "vcpus": 999}"#,
    );
    assert_eq!(output.status.code(), Some(64));
    let message = stderr(&output);
    assert!(message.contains("vcpus") && message.contains("1 to 254"), "{message}");
}

#[test]
fn a_kernel_that_is_not_there_is_refused_with_code_66_and_its_path() {
    let output = ecs_vmm(&["run", "--kernel", "/nonexistent/vmlinuz", "--serial", "none"]);
    assert_eq!(output.status.code(), Some(66));
    assert!(stderr(&output).contains("/nonexistent/vmlinuz"), "{}", stderr(&output));
}

#[test]
fn a_machine_that_does_not_run_is_reported_by_ctl() {
    let output = ecs_vmm(&["ctl", "--socket", "/nonexistent/control.sock", "info"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("/nonexistent/control.sock"), "{}", stderr(&output));
}

/// As on a host whose disk is full.
#[test]
fn a_stderr_that_takes_nothing_changes_no_exit_code() {
    let full = || OpenOptions::new().write(true).open("/dev/full").unwrap();
    let code = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ecs-vmm"));
        command.args(arguments).stdout(full()).stderr(full()).status().unwrap().code()
    };
    assert_eq!(code(&["run", "--config", "/nonexistent/machine.json"]), Some(64));
    assert_eq!(code(&["run", "--kernel", "/nonexistent/vmlinuz", "--serial", "none"]), Some(66));
    assert_eq!(code(&["ctl", "--socket", "/nonexistent/control.sock", "info"]), Some(1));
}

#[test]
fn neither_kernel_nor_config_is_a_usage_error() {
    assert_eq!(ecs_vmm(&["run"]).status.code(), Some(2));
    assert_eq!(ecs_vmm(&["run", "--kernel", "k", "--memory", "1.5G"]).status.code(), Some(2));
}
