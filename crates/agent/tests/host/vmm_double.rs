//! Speaks the control socket of `ecs-vmm` without a guest. Signals stand for what guests do:
//! USR1 powers off, USR2 resets, HUP faults. An instance with "deaf" in its id does not listen to
//! its power button, one with "mute" ignores Terminate too, one with "clinging" lets no disk and
//! no network interface go while the file `cling` is there.

use crate::{vmm_double_disks::Disks, vmm_double_nics::Nics};
use api::vmm::{
    Ack, ExitCode, Info, Request, Response, VmConfig, VmState, file_ref, request, response,
};
use prost::Message as _;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
use std::{
    fs::{self, File, OpenOptions},
    io::{self, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    os::unix::net::{UnixListener, UnixStream},
    path::Path,
    process::exit,
    sync::{Arc, Mutex},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};
use tokio::signal::unix::{SignalKind, signal};

pub fn main() -> ! {
    let arguments: Vec<String> = std::env::args().collect();
    assert_eq!(arguments[1..3], ["run", "--config"]);
    let config: VmConfig = serde_json::from_slice(&fs::read(&arguments[3]).unwrap()).unwrap();
    let run_dir = Path::new(&config.control_socket).parent().unwrap();
    // <root>/run/vmm/<id>
    let root = run_dir.ancestors().nth(3).unwrap().to_owned();
    let _alone = claim(&root, &config.instance_id);
    check_descriptors(&config);
    let mut console = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&config.console.as_ref().unwrap().log_path)
        .unwrap();
    writeln!(console, "guest {} epoch {}", config.instance_id, config.boot_epoch).unwrap();

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let signals = runtime.block_on(async {
        [SignalKind::user_defined1(), SignalKind::user_defined2(), SignalKind::hangup()]
            .map(|kind| signal(kind).unwrap())
    });
    serve_console(&config, console);
    let listener = UnixListener::bind(&config.control_socket).unwrap();
    let devices = (Disks::new(&config, &root), Nics::new(&config, &root));
    let devices = Arc::new(Mutex::new(devices));
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (config, devices) = (config.clone(), Arc::clone(&devices));
            thread::spawn(move || serve(&config, &devices, stream.unwrap()));
        }
    });
    let [mut off, mut reset, mut fault] = signals;
    runtime.block_on(async {
        tokio::select! {
            _ = off.recv() => exit(ExitCode::Shutdown.into()),
            _ = reset.recv() => exit(ExitCode::Reset.into()),
            _ = fault.recv() => {
                eprintln!("vCPU 0: triple fault");
                exit(ExitCode::GuestFault.into())
            }
        }
    })
}

/// Notes the start, and whether another one of this instance lives: the one thing that must not be.
fn claim(root: &Path, id: &str) -> File {
    let file = File::create(root.join(format!("alone-{id}"))).unwrap();
    if rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
        fs::write(root.join("second-vmm"), id).unwrap();
    }
    let mut starts =
        OpenOptions::new().create(true).append(true).open(root.join("starts")).unwrap();
    // In one piece: others write there too.
    starts.write_all(format!("{id}\n").as_bytes()).unwrap();
    file
}

fn check_descriptors(config: &VmConfig) {
    let boot = config.boot.as_ref().unwrap();
    let layers = config.disks.iter().flat_map(|d| &d.layers).filter_map(|l| l.file.as_ref());
    let files = [boot.kernel.as_ref(), boot.initrd.as_ref()].into_iter().flatten().chain(layers);
    let fds = files.map(|f| match f.source {
        Some(file_ref::Source::Fd(fd)) => fd,
        _ => panic!("not a descriptor: {f:?}"),
    });
    let taps = config.nics.iter().flat_map(|n| n.tap_fds.iter().copied());
    for fd in fds.chain(taps) {
        if let Err(e) = fs::metadata(format!("/proc/self/fd/{fd}")) {
            eprintln!("descriptor {fd}: {e}");
            exit(ExitCode::Config.into());
        }
    }
}

fn serve_console(config: &VmConfig, mut log: File) {
    let listener = UnixListener::bind(&config.console.as_ref().unwrap().socket_path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut buffer = [0; 256];
            while let Ok(n @ 1..) = stream.read(&mut buffer) {
                log.write_all(&buffer[..n]).unwrap();
                if stream.write_all(&buffer[..n]).is_err() {
                    break;
                }
            }
        }
    });
}

fn serve(config: &VmConfig, devices: &Mutex<(Disks, Nics)>, mut stream: UnixStream) -> Option<()> {
    loop {
        let (request, files) = read_frame(&mut stream).ok()?;
        let id = request.id;
        let mut end = false;
        let mut devices = devices.lock().unwrap();
        let (disks, nics) = &mut *devices;
        let result = match request.op? {
            request::Op::GetInfo(_) => response::Result::Info(info(config, disks, nics)),
            request::Op::GetStats(_) => response::Result::Stats(disks.stats()),
            request::Op::PowerButton(_) => {
                let id = &config.instance_id;
                end = !id.contains("deaf") && !id.contains("mute");
                ack()
            }
            request::Op::Terminate(_) => {
                end = !config.instance_id.contains("mute");
                ack()
            }
            request::Op::AttachDisk(request) => disks.attach(&request.disk.unwrap(), files),
            request::Op::DetachDisk(request) => disks.detach(&request.disk_id),
            request::Op::ResizeDisk(request) => {
                disks.change(&request.disk_id, |d| d.size_bytes = request.size_bytes)
            }
            request::Op::SetDiskLimit(request) => {
                disks.change(&request.disk_id, |d| d.limit = request.limit)
            }
            request::Op::SwitchLayers(request) => disks.switch(&request, files),
            request::Op::AttachNic(request) => nics.attach(&request.nic.unwrap(), files),
            request::Op::DetachNic(request) => nics.detach(&request.eni_id),
            request::Op::SwitchTaps(request) => nics.switch(&request, files),
            _ => ack(),
        };
        drop(devices);
        let frame = Response { id, result: Some(result) }.encode_length_delimited_to_vec();
        stream.write_all(&frame).ok()?;
        if end {
            exit(ExitCode::Shutdown.into());
        }
    }
}

pub fn ack() -> response::Result {
    response::Result::Ack(Ack {})
}

fn info(config: &VmConfig, disks: &mut Disks, nics: &mut Nics) -> Info {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
    disks.let_go();
    nics.let_go();
    Info {
        instance_id: config.instance_id.clone(),
        pid: std::process::id(),
        state: VmState::Running.into(),
        boot_epoch: config.boot_epoch,
        started_unix_ms: u64::try_from(now).unwrap(),
        version: "double".into(),
        disks: disks.all.iter().map(|(disk, _)| disk.clone()).collect(),
        nics: nics.all.iter().map(|(nic, _)| nic.clone()).collect(),
    }
}

/// A frame, and the files that came with its first byte.
fn read_frame(stream: &mut UnixStream) -> io::Result<(Request, Vec<File>)> {
    let mut space = [MaybeUninit::uninit(); 2048];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0x80];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let got = recvmsg(&*stream, &mut [IoSliceMut::new(&mut byte)], &mut control, flags)?;
    if got.bytes == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let mut files = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            files.extend(fds.map(File::from));
        }
    }
    let mut length = u64::from(byte[0] & 0x7f);
    let mut shift = 7;
    while byte[0] & 0x80 != 0 {
        stream.read_exact(&mut byte)?;
        length |= u64::from(byte[0] & 0x7f) << shift;
        shift += 7;
    }
    let mut frame = vec![0; usize::try_from(length).unwrap()];
    stream.read_exact(&mut frame)?;
    Ok((Request::decode(frame.as_slice()).map_err(io::Error::other)?, files))
}
