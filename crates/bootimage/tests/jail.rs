//! The binary: its contract with whoever starts it, and its jail.

mod disks;

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use disks::*;
use serde_json::Value;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ecs-bootimage"))
}

fn line(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.lines().count(), 1, "{text} {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text).expect("JSON")
}

/// A temporary file that a child inherits.
fn inherited(content: &[u8]) -> File {
    let mut file = tempfile::tempfile().expect("tempfile");
    file.write_all(content).expect("write");
    file.rewind().expect("rewind");
    // SAFETY: clears the flag of a descriptor this test owns.
    assert_eq!(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFD, 0) }, 0);
    file
}

fn content(file: &mut File) -> Vec<u8> {
    let mut bytes = Vec::new();
    file.rewind().expect("rewind");
    file.read_to_end(&mut bytes).expect("read");
    bytes
}

#[test]
fn descriptors_in_files_out() {
    let disk = inherited(&debian_disk());
    let mut kernel_out = inherited(b"");
    let mut initrd_out = inherited(b"");
    let output = program()
        .args(["--layer", &format!("{}:raw", disk.as_raw_fd())])
        .args(["--kernel-out", &kernel_out.as_raw_fd().to_string()])
        .args(["--initrd-out", &initrd_out.as_raw_fd().to_string()])
        .args(["--uid", "4711", "--gid", "4711", "--timeout-seconds", "30"])
        .output()
        .expect("run");
    assert!(output.status.success(), "{output:?}");
    let line = line(&output);
    assert_eq!(line["kernel_path"], "/boot/vmlinuz-6.1.0-18");
    assert_eq!(line["initrd_path"], "/boot/initrd.img-6.1.0-18");
    assert_eq!(line["title"], "Debian GNU/Linux");
    assert_eq!(line["filesystem"], "ext4");
    assert_eq!(line["partition"], 1);
    assert!(line["cmdline"].as_str().expect("text").contains("console=ttyS0"));
    assert_eq!(content(&mut kernel_out), kernel(18));
    assert_eq!(content(&mut initrd_out), initrd(18));
}

#[test]
fn a_chain_of_qcow2_layers() {
    let work = tempfile::tempdir().expect("tempdir");
    let at = |name: &str| work.path().join(name).to_str().expect("utf-8").to_owned();
    std::fs::write(at("disk.raw"), debian_disk()).expect("write");
    let qemu_img = |arguments: &[&str]| {
        let output = Command::new("qemu-img").args(arguments).output().expect("install qemu-utils");
        assert!(output.status.success(), "{output:?}");
    };
    let (base, top) = (at("base.qcow2"), at("top.qcow2"));
    qemu_img(&["convert", "-c", "-O", "qcow2", &at("disk.raw"), &base]);
    qemu_img(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &base, &top]);
    let output = program().args(["inspect", &top, &base]).output().expect("run");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(line(&output)["kernel_path"], "/boot/vmlinuz-6.1.0-18");
}

#[test]
fn errors_are_one_line_with_code_and_message() {
    let empty = inherited(&[0; 1 << 20]);
    let layer = format!("{}:raw", empty.as_raw_fd());
    let output = program().args(["--layer", &layer]).output().expect("run");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(line(&output)["code"], "ImageBootFailed.NoPartition");

    // Not a qcow2 at all.
    let layer = format!("{}:qcow2", empty.as_raw_fd());
    let output = program().args(["--layer", &layer]).output().expect("run");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(line(&output)["code"], "ImageBootFailed.Corrupt");

    for layer in ["/no/such/file:raw", "99:raw"] {
        let output = program().args(["--layer", layer]).output().expect("run");
        assert_eq!(output.status.code(), Some(1), "{layer}");
        assert_eq!(line(&output)["code"], "ImageBootFailed.ReadError", "{layer}");
    }
}

#[test]
fn the_jail_is_complete() {
    let output = program().args(["confinement", "--uid", "4711"]).output().expect("run");
    assert!(output.status.success(), "{output:?}");
    let report = line(&output);
    assert_eq!(report["system_calls"], true);
    // SAFETY: has no arguments and cannot fail.
    if unsafe { libc::geteuid() } == 0 {
        assert_eq!(report["uid"], 4711);
    }
}

#[test]
fn a_required_jail_is_whole_or_an_error() {
    let report = line(&program().args(["confinement"]).output().expect("run"));
    let whole = report["namespaces"] == true && report["landlock"] == true;
    let output = program().args(["confinement", "--require-jail"]).output().expect("run");
    assert_eq!(output.status.success(), whole, "{report} {output:?}");
    if !whole {
        let missing = if report["namespaces"] == true { "landlock" } else { "namespaces" };
        let line = line(&output);
        assert_eq!(line["code"], "ImageBootFailed.Confinement");
        assert!(line["message"].as_str().expect("text").contains(missing), "{line}");
    }
    // SAFETY: has no arguments and cannot fail.
    if unsafe { libc::geteuid() } != 0 {
        assert!(!whole, "namespaces without root");
    }
}

#[test]
fn it_ends_with_the_process_that_started_it() {
    // The shell says the child's number and waits; the child is in its jail once it is filtered.
    let mut shell = Command::new("sh")
        .args([
            "-c",
            "\"$0\" confinement loop --timeout-seconds 60 --instance i-1 & echo $!; read x",
        ])
        .arg(env!("CARGO_BIN_EXE_ecs-bootimage"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("sh");
    let mut number = String::new();
    let mut said = std::io::BufReader::new(shell.stdout.take().expect("piped"));
    std::io::BufRead::read_line(&mut said, &mut number).expect("a number");
    let child = std::path::PathBuf::from(format!("/proc/{}", number.trim()));
    let started = Instant::now();
    let wait = |what: &str, done: &dyn Fn() -> bool| {
        while !done() {
            assert!(started.elapsed() < Duration::from_secs(30), "not {what}");
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let status = || std::fs::read_to_string(child.join("status")).unwrap_or_default();
    wait("in its jail", &|| status().contains("Seccomp:\t2"));
    // The mark by which the agent finds what it left behind.
    let arguments = std::fs::read(child.join("cmdline")).expect("cmdline");
    assert!(String::from_utf8_lossy(&arguments).contains("--instance\0i-1\0"));
    shell.kill().expect("kill");
    shell.wait().expect("wait");
    wait("gone", &|| !child.exists() || status().contains("State:\tZ"));

    let output = program().args(["confinement", "--parent", "1"]).output().expect("run");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert_eq!(line(&output)["code"], "ImageBootFailed.Confinement");
}

#[test]
fn sizes_are_limited_as_asked() {
    let disk = inherited(&debian_disk());
    let layer = format!("{}:raw", disk.as_raw_fd());
    for (flag, limit, what) in
        [("--kernel-limit", "39999", "the kernel"), ("--initrd-limit", "100000", "the initrd")]
    {
        let output = program().args(["--layer", &layer, flag, limit]).output().expect("run");
        assert_eq!(output.status.code(), Some(1), "{flag}");
        let line = line(&output);
        assert_eq!(line["code"], "ImageBootFailed.TooLarge", "{flag}");
        assert!(line["message"].as_str().expect("text").contains(what), "{line}");
    }
    let output = program()
        .args(["--layer", &layer, "--kernel-limit", "40000", "--initrd-limit", "100001"])
        .output()
        .expect("run");
    assert!(output.status.success(), "{output:?}");
    assert_eq!(line(&output)["jail"]["system_calls"], true);
}

#[test]
fn nothing_gets_out_of_the_jail() {
    for attempt in ["open", "socket", "execute", "memory"] {
        let output = program().args(["confinement", attempt]).output().expect("run");
        assert_eq!(output.status.code(), Some(1), "{attempt}: {output:?}");
        let code = line(&output)["code"].clone();
        let expected = if attempt == "memory" { "ReadError" } else { "Confinement" };
        assert_eq!(code, format!("ImageBootFailed.{expected}"), "{attempt}");
    }
    // The standard library blocks signals before it forks, so the kernel ends the process itself.
    let output = program().args(["confinement", "fork"]).output().expect("run");
    assert!(!output.status.success(), "{output:?}");
    assert!(!String::from_utf8_lossy(&output.stdout).contains("escaped"));
}

#[test]
fn time_and_panics_end_with_a_line_too() {
    let started = Instant::now();
    let output =
        program().args(["confinement", "loop", "--timeout-seconds", "1"]).output().expect("run");
    assert!(started.elapsed() < Duration::from_secs(15));
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(line(&output)["code"], "ImageBootFailed.Timeout");

    let output = program().args(["confinement", "panic"]).output().expect("run");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(line(&output)["code"], "ImageBootFailed.Corrupt");
}
