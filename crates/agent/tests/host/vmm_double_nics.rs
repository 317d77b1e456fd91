//! The network interfaces of the double: it keeps the taps it was given open, as a real VMM does.

use crate::vmm_double::ack;
use api::vmm::{AttachedNic, Error, Nic, SwitchTaps, VmConfig, response};
use std::{
    fs::File,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

pub struct Nics {
    pub all: Vec<(AttachedNic, Vec<File>)>,
    cling: Option<PathBuf>,
}

impl Nics {
    pub fn new(config: &VmConfig, root: &Path) -> Self {
        // The inherited descriptors stay open without anybody's doing.
        let all = config.nics.iter().map(|nic| (attached(nic), Vec::new())).collect();
        let cling = config.instance_id.contains("clinging").then(|| root.join("cling"));
        Self { all, cling }
    }

    pub fn attach(&mut self, nic: &Nic, files: Vec<File>) -> response::Result {
        if files.len() != nic.tap_fds.len() + nic.vhost_fds.len() || nic.tap_fds.is_empty() {
            return refuse("InvalidArgument", "a tap for each queue pair is needed");
        }
        if !self.all.iter().any(|(has, _)| has.eni_id == nic.eni_id) {
            self.all.push((attached(nic), files));
        }
        ack()
    }

    pub fn detach(&mut self, eni_id: &str) -> response::Result {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let Some((nic, _)) = self.all.iter_mut().find(|(nic, _)| nic.eni_id == eni_id) else {
            return refuse("NotFound", "no such interface");
        };
        if !nic.detaching {
            nic.detach_asked_unix_ms = u64::try_from(now).unwrap();
        }
        nic.detaching = true;
        ack()
    }

    pub fn switch(&mut self, request: &SwitchTaps, files: Vec<File>) -> response::Result {
        let Some((nic, held)) = self.all.iter_mut().find(|(nic, _)| nic.eni_id == request.eni_id)
        else {
            return refuse("NotFound", "no such interface");
        };
        nic.tap_epoch = request.tap_epoch;
        *held = files;
        ack()
    }

    /// What a guest does once it has been asked.
    pub fn let_go(&mut self) {
        if !self.cling.as_ref().is_some_and(|file| file.exists()) {
            self.all.retain(|(nic, _)| !nic.detaching);
        }
    }
}

fn attached(nic: &Nic) -> AttachedNic {
    AttachedNic {
        eni_id: nic.eni_id.clone(),
        tap_epoch: nic.tap_epoch,
        in_use: true,
        ..AttachedNic::default()
    }
}

fn refuse(code: &str, message: &str) -> response::Result {
    response::Result::Error(Error { code: code.into(), message: message.into() })
}
