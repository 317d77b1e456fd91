//! What the control socket can ask of the machine.

use crate::{
    control::{Files, Service, refusal},
    devices::Devices,
    disks::DiskError,
    events::{Events, Exit, unix_ms},
    legacy::power::PowerRegisters,
    nics::NicError,
    plugged::PlugError,
    vcpu::{Gate, RunState},
    virtio::DeviceError,
};
use api::vmm::{
    Ack, Error, Info, Stats, VmConfig, VmState, request::Op, response::Result as Answer,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// States in which devices may come and go.
const PLUGGABLE: &[VmState] = &[VmState::Running, VmState::Paused, VmState::Panicked];

/// The machine as the control socket sees it.
#[derive(Debug)]
pub struct MachineService {
    instance_id: String,
    boot_epoch: u64,
    started_unix_ms: u64,
    events: Events,
    gate: Arc<Gate>,
    power: Arc<PowerRegisters>,
    devices: Arc<Devices>,
    /// A guest that had panicked is no better after a pause.
    before_pause: Mutex<VmState>,
}

impl MachineService {
    /// Puts the machine's parts under control.
    pub fn new(
        config: &VmConfig,
        events: Events,
        gate: Arc<Gate>,
        power: Arc<PowerRegisters>,
        devices: Arc<Devices>,
    ) -> Self {
        Self {
            instance_id: config.instance_id.clone(),
            boot_epoch: config.boot_epoch,
            started_unix_ms: unix_ms(),
            events,
            gate,
            power,
            devices,
            before_pause: Mutex::new(VmState::Running),
        }
    }

    fn before_pause(&self) -> MutexGuard<'_, VmState> {
        self.before_pause.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn info(&self) -> Info {
        Info {
            instance_id: self.instance_id.clone(),
            pid: std::process::id(),
            state: self.events.state().into(),
            boot_epoch: self.boot_epoch,
            started_unix_ms: self.started_unix_ms,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            disks: self.devices.disks().list(),
            nics: self.devices.nics().list(),
        }
    }

    fn require(&self, allowed: &[VmState], what: &str) -> Result<(), Error> {
        let state = self.events.state();
        if allowed.contains(&state) {
            return Ok(());
        }
        let name = state.as_str_name();
        Err(refusal("InvalidState", format!("{what} is not possible in state {name}")))
    }

    fn pause(&self) -> Result<(), Error> {
        self.require(&[VmState::Running, VmState::Panicked, VmState::Paused], "Pause")?;
        self.gate.set(RunState::Paused);
        // Not before: until it stands still, the guest can panic.
        let before = self.events.state();
        if before != VmState::Paused {
            *self.before_pause() = before;
            self.events.publish(VmState::Paused, "paused on request");
        }
        Ok(())
    }

    fn resume(&self) -> Result<(), Error> {
        self.require(&[VmState::Running, VmState::Panicked, VmState::Paused], "Resume")?;
        if self.events.state() == VmState::Paused {
            self.events.publish(*self.before_pause(), "resumed on request");
        }
        self.gate.set(RunState::Running);
        Ok(())
    }

    fn stats(&self) -> Stats {
        let (disks, nics) = self.devices.stats();
        Stats { disks, nics, vcpu_exits: self.gate.exits() }
    }
}

fn io(error: &dyn std::error::Error) -> Error {
    refusal("Io", error.to_string())
}

fn permanent(error: &DiskError) -> bool {
    matches!(error, DiskError::Device(error) if error.is_permanent())
}

fn plug_code(error: &PlugError) -> &'static str {
    match error {
        PlugError::NotFound(_) => "NotFound",
        PlugError::State { .. } => "InvalidState",
    }
}

fn nic_refused(error: &NicError) -> Error {
    let code = match error {
        NicError::Plug(error) => plug_code(error),
        NicError::Argument { .. } => "InvalidArgument",
        // Which slots are free changes.
        NicError::Device(DeviceError::Pci { .. } | DeviceError::Gone { .. }) => "InvalidState",
        NicError::Device(error) if error.is_permanent() => "InvalidArgument",
        NicError::Device(_) => "Io",
    };
    refusal(code, error.to_string())
}

fn refused(error: &DiskError) -> Error {
    let code = match error {
        DiskError::Plug(error) => plug_code(error),
        DiskError::Device(DeviceError::Gone { .. }) => "InvalidState",
        DiskError::Argument { .. } => "InvalidArgument",
        DiskError::Device(DeviceError::Image { source, .. }) => match source {
            qcow2::Error::ReadOnly | qcow2::Error::Busy { .. } => "InvalidState",
            _ if permanent(error) => "InvalidArgument",
            _ => "Io",
        },
        // Which slots are free changes.
        DiskError::Device(DeviceError::Pci { .. }) => "InvalidState",
        DiskError::Device(_) if permanent(error) => "InvalidArgument",
        DiskError::Device(_) => "Io",
    };
    refusal(code, error.to_string())
}

impl Service for MachineService {
    fn takes_long(&self, op: &Op) -> bool {
        matches!(
            op,
            Op::Flush(_)
                | Op::AttachDisk(_)
                | Op::DetachDisk(_)
                | Op::ResizeDisk(_)
                | Op::SwitchLayers(_)
                | Op::AttachNic(_)
                | Op::DetachNic(_)
                | Op::SwitchTaps(_)
        )
    }

    fn perform(&self, op: &Op, mut files: Files) -> Result<Answer, Error> {
        let disks = self.devices.disks();
        match op {
            Op::GetInfo(_) => return Ok(Answer::Info(self.info())),
            Op::GetStats(_) => return Ok(Answer::Stats(self.stats())),
            Op::PowerButton(_) => {
                self.require(&[VmState::Running, VmState::Panicked], "PowerButton")?;
                self.power.press_power_button().map_err(|error| io(&error))?;
            }
            Op::Pause(_) => self.pause()?,
            Op::Resume(_) => self.resume()?,
            Op::Terminate(_) => self.events.exit(Exit::Terminated),
            Op::Flush(_) => disks.flush().map_err(|error| io(&error))?,
            Op::SetDiskLimit(request) => {
                disks
                    .set_limit(&request.disk_id, request.limit.as_ref())
                    .map_err(|error| refused(&error))?;
            }
            Op::AttachDisk(request) => {
                self.require(PLUGGABLE, "AttachDisk")?;
                disks.plug(request, &mut files).map_err(|error| refused(&error))?;
            }
            Op::DetachDisk(request) => {
                self.require(PLUGGABLE, "DetachDisk")?;
                disks.unplug(&request.disk_id, request.force).map_err(|error| refused(&error))?;
            }
            Op::ResizeDisk(request) => disks.resize(request).map_err(|error| refused(&error))?,
            Op::SwitchLayers(request) => {
                let switched =
                    disks.switch_layers(request, &mut files).map_err(|error| refused(&error))?;
                return Ok(Answer::LayersSwitched(switched));
            }
            Op::AttachNic(request) => {
                self.require(PLUGGABLE, "AttachNic")?;
                let nics = self.devices.nics();
                nics.plug(request, &mut files).map_err(|error| nic_refused(&error))?;
            }
            Op::DetachNic(request) => {
                self.require(PLUGGABLE, "DetachNic")?;
                let nics = self.devices.nics();
                nics.unplug(&request.eni_id, request.force).map_err(|error| nic_refused(&error))?;
            }
            Op::SwitchTaps(request) => {
                let nics = self.devices.nics();
                nics.switch_taps(request, &mut files).map_err(|error| nic_refused(&error))?;
            }
            // Of the connection, not of the machine: answered before it comes here.
            Op::Subscribe(_) => {}
        }
        Ok(Answer::Ack(Ack {}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        control::{ControlThread, Listeners, client::Client},
        virtio::testing::eventually,
    };
    use api::vmm::{
        AttachDisk, AttachNic, AttachedDisk, DetachDisk, DetachNic, Disk, DiskFormat, DiskLayer,
        DiskLimit, FileRef, Flush, GetInfo, Nic, Pause, PowerButton, ResizeDisk, Resume,
        SetDiskLimit, SwitchTaps, Terminate, file_ref::Source,
    };
    use std::os::{fd::AsRawFd as _, unix::net::UnixListener};

    fn service() -> MachineService {
        let events = Events::new();
        let power = Arc::new(PowerRegisters::new(events.clone(), Arc::default()));
        let config =
            VmConfig { instance_id: "i-1".to_owned(), boot_epoch: 7, ..Default::default() };
        let gate = Arc::new(Gate::new());
        MachineService::new(
            &config,
            events,
            gate,
            power,
            Arc::new(crate::disks::testing::devices()),
        )
    }

    fn code(result: Result<Answer, Error>) -> String {
        result.unwrap_err().code
    }

    #[test]
    fn requests_fit_the_state_or_are_refused() {
        let service = service();
        assert_eq!(
            code(service.perform(&Op::PowerButton(PowerButton {}), Files::default())),
            "InvalidState"
        );
        assert_eq!(code(service.perform(&Op::Pause(Pause {}), Files::default())), "InvalidState");
        service.events.publish(VmState::Running, "");
        assert!(service.perform(&Op::PowerButton(PowerButton {}), Files::default()).is_ok());
        assert!(service.perform(&Op::Pause(Pause {}), Files::default()).is_ok());
        assert_eq!(service.events.state(), VmState::Paused);
        assert_eq!(
            code(service.perform(&Op::PowerButton(PowerButton {}), Files::default())),
            "InvalidState"
        );
        assert!(service.perform(&Op::Resume(Resume {}), Files::default()).is_ok());
        assert_eq!(service.events.state(), VmState::Running);
        service.events.publish(VmState::Panicked, "");
        assert!(service.perform(&Op::Pause(Pause {}), Files::default()).is_ok());
        assert!(service.perform(&Op::Resume(Resume {}), Files::default()).is_ok());
        assert_eq!(service.events.state(), VmState::Panicked);
        let limit = SetDiskLimit { disk_id: "d-none".to_owned(), limit: None };
        assert_eq!(code(service.perform(&Op::SetDiskLimit(limit), Files::default())), "NotFound");
        assert!(service.perform(&Op::Terminate(Terminate {}), Files::default()).is_ok());
        assert_eq!(service.events.exiting(), Some(Exit::Terminated));
        assert_eq!(code(service.perform(&Op::Pause(Pause {}), Files::default())), "InvalidState");
    }

    #[test]
    fn info_returns_what_the_description_said() {
        let Ok(Answer::Info(info)) = service().perform(&Op::GetInfo(GetInfo {}), Files::default())
        else {
            panic!("no info");
        };
        assert_eq!((info.instance_id.as_str(), info.boot_epoch), ("i-1", 7));
        assert_eq!(info.pid, std::process::id());
        assert_eq!(info.state(), VmState::Starting);
    }

    fn controlled() -> (tempfile::TempDir, Arc<crate::disks::Disks>, ControlThread, Client) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let events = Events::new();
        events.publish(VmState::Running, "");
        let power = Arc::new(PowerRegisters::new(events.clone(), Arc::default()));
        let devices = Arc::new(crate::disks::testing::devices());
        let disks = Arc::clone(devices.disks());
        let gate = Arc::new(Gate::new());
        let service =
            MachineService::new(&VmConfig::default(), events.clone(), gate, power, devices);
        let listeners = Listeners::new(Some(UnixListener::bind(&path).unwrap())).unwrap();
        let thread = listeners.start(Arc::new(service), events).unwrap();
        let client = Client::connect(&path).unwrap();
        (dir, disks, thread, client)
    }

    fn attach(layers: i32) -> Op {
        let layer = |position| DiskLayer {
            file: Some(FileRef { source: Some(Source::Fd(position)) }),
            format: DiskFormat::Raw.into(),
        };
        let layers = (0..layers).map(layer).collect();
        let limit = Some(DiskLimit { iops: 7, bytes_per_second: 0 });
        let disk =
            Disk { disk_id: "d-1".to_owned(), layers, limit, chain_epoch: 3, ..Default::default() };
        Op::AttachDisk(AttachDisk { disk: Some(disk) })
    }

    fn info(client: &mut Client) -> Vec<AttachedDisk> {
        match client.call(Op::GetInfo(GetInfo {})) {
            Ok(Answer::Info(info)) => info.disks,
            other => panic!("{other:?}"),
        }
    }

    /// Whether the other end of a pipe is still open somewhere.
    fn is_open(reader: &mut std::fs::File) -> bool {
        let mut byte = [0];
        !matches!(std::io::Read::read(reader, &mut byte), Ok(0))
    }

    fn pipe() -> (std::fs::File, std::fs::File) {
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK).unwrap();
        (reader.into(), writer.into())
    }

    #[test]
    fn disks_come_through_the_socket_with_their_files_and_go_again() {
        let (_dir, _disks, thread, mut client) = controlled();
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        client.call_with(attach(1), &[file.as_raw_fd()]).unwrap();
        let disk = info(&mut client).remove(0);
        assert_eq!((disk.disk_id.as_str(), disk.slot, disk.size_bytes), ("d-1", 1, 1 << 20));
        assert_eq!((disk.chain_epoch, disk.limit.unwrap().iops), (3, 7));
        let limit = Some(DiskLimit { iops: 0, bytes_per_second: 9 });
        client.call(Op::SetDiskLimit(SetDiskLimit { disk_id: "d-1".to_owned(), limit })).unwrap();
        assert_eq!(info(&mut client)[0].limit, limit);
        let resize =
            |size_bytes| Op::ResizeDisk(ResizeDisk { disk_id: "d-1".to_owned(), size_bytes });
        client.call(resize(2 << 20)).unwrap();
        assert_eq!(info(&mut client)[0].size_bytes, 2 << 20);
        let refused = client.call(resize(1 << 20)).unwrap_err().to_string();
        assert!(refused.contains("InvalidArgument"), "{refused}");
        client.call(Op::Flush(Flush {})).unwrap();
        let detach = |force| Op::DetachDisk(DetachDisk { disk_id: "d-1".to_owned(), force });
        client.call(detach(false)).unwrap();
        assert!(info(&mut client)[0].detaching);
        client.call(detach(true)).unwrap();
        assert!(info(&mut client).is_empty());
        let refused = client.call(detach(true)).unwrap_err().to_string();
        assert!(refused.contains("NotFound"), "{refused}");
        thread.finish();
    }

    #[test]
    fn interfaces_come_through_the_socket_with_their_taps_and_go_again() {
        crate::nics::testing::own_network();
        let tap = |name| crate::nics::testing::tap(name, false);
        let (_dir, _disks, thread, mut client) = controlled();
        let list = |client: &mut Client| match client.call(Op::GetInfo(GetInfo {})) {
            Ok(Answer::Info(info)) => info.nics,
            other => panic!("{other:?}"),
        };
        let nic = Nic {
            eni_id: "eni-1".to_owned(),
            mac: "00:16:3e:00:00:01".to_owned(),
            tap_fds: vec![0],
            tap_epoch: 1,
            ..Default::default()
        };
        let attach = || Op::AttachNic(AttachNic { nic: Some(nic.clone()) });
        let refused = client.call(attach()).unwrap_err().to_string();
        assert!(refused.contains("InvalidArgument"), "{refused}");
        client.call_with(attach(), &[tap("one").as_raw_fd()]).unwrap();
        assert_eq!((list(&mut client)[0].slot, list(&mut client)[0].tap_epoch), (1, 1));
        let switch = SwitchTaps { eni_id: "eni-1".to_owned(), tap_epoch: 2, tap_fds: vec![0] };
        client.call_with(Op::SwitchTaps(switch), &[tap("two").as_raw_fd()]).unwrap();
        assert_eq!(list(&mut client)[0].tap_epoch, 2);
        let detach = |force| Op::DetachNic(DetachNic { eni_id: "eni-1".to_owned(), force });
        client.call(detach(false)).unwrap();
        assert!(list(&mut client)[0].detaching);
        client.call(detach(true)).unwrap();
        assert!(list(&mut client).is_empty());
        thread.finish();
    }

    #[test]
    fn files_nobody_asked_for_or_too_many_are_closed() {
        let (dir, _disks, thread, mut client) = controlled();
        let (mut reader, writer) = pipe();
        client.call_with(Op::GetInfo(GetInfo {}), &[writer.as_raw_fd()]).unwrap();
        drop(writer);
        eventually(|| !is_open(&mut reader));

        let (mut reader, writer) = pipe();
        let file = tempfile::tempfile().unwrap();
        file.set_len(1 << 20).unwrap();
        client.call_with(attach(1), &[file.as_raw_fd(), writer.as_raw_fd()]).unwrap();
        drop(writer);
        assert!(!is_open(&mut reader), "one more than the disk has layers");
        assert_eq!(info(&mut client).len(), 1);

        let (mut reader, writer) = pipe();
        let many = vec![writer.as_raw_fd(); crate::control::MAX_FILES + 1];
        let refused = client.call_with(attach(1), &many).unwrap_err().to_string();
        assert!(refused.contains("descriptors"), "{refused}");
        let mut client = Client::connect(&dir.path().join("control.sock")).unwrap();
        drop(writer);
        assert_eq!(info(&mut client).len(), 1);
        assert!(!is_open(&mut reader));
        thread.finish();
    }
}
