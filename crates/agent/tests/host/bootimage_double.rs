//! Answers like `ecs-bootimage`. A disk with "nokernel" in its name has none; one with "busy" is not
//! read in time at first.

use std::{fs, io::Write, os::fd::FromRawFd as _, process::exit};

pub fn main() -> ! {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|a| a == "--hang") {
        std::thread::sleep(std::time::Duration::from_secs(60));
        exit(1);
    }
    assert_eq!(arguments[1], "--instance");
    let value = |flag: &str| {
        let at = arguments.iter().position(|a| a == flag).unwrap();
        arguments[at + 1].clone()
    };
    let (fd, format) =
        value("--layer").split_once(':').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert_eq!(format, "qcow2");
    let disk = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap();
    if disk.to_string_lossy().contains("nokernel") {
        println!(r#"{{"code":"ImageBootFailed.NoKernel","message":"no kernel in /boot"}}"#);
        exit(1);
    }
    if disk.to_string_lossy().contains("busy") {
        // <root>/state/disks/<id>
        let tried = disk.ancestors().nth(3).unwrap().join("tried");
        if !tried.exists() {
            fs::write(tried, "").unwrap();
            println!(r#"{{"code":"ImageBootFailed.Timeout","message":"not read within 60 s"}}"#);
            exit(1);
        }
    }
    for flag in ["--kernel-out", "--initrd-out"] {
        let fd: i32 = value(flag).parse().unwrap();
        // SAFETY: the agent passed this descriptor for this process to write to; nothing else here
        // uses it.
        let mut file = unsafe { fs::File::from_raw_fd(fd) };
        file.write_all(b"boot me").unwrap();
    }
    println!(r#"{{"cmdline":"root=/dev/vda1 console=ttyS0"}}"#);
    exit(0);
}
