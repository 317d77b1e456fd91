//! What QEMU is asked about an emulated host from outside, which works whatever state the host is in.
//! QMP, docs: qemu.org, "QEMU Machine Protocol specification".

use super::{layout::Layout, machine};
use crate::error::{Error, Result};
use serde_json::{Value, json};
use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    time::Duration,
};

const PATIENCE: Duration = Duration::from_secs(20);

struct Monitor {
    stream: BufReader<UnixStream>,
    host: String,
}

impl Monitor {
    fn connect(layout: &Layout, number: u32) -> Result<Self> {
        let host = machine::name(number);
        let what =
            || format!("cannot ask QEMU about {host}; `ecsctl lab up` starts it if it is down");
        let stream = UnixStream::connect(layout.host_monitor(number)).map_err(Error::io(what()))?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(Error::io(what()))?;
        let mut monitor = Self { stream: BufReader::new(stream), host: host.clone() };
        monitor.line()?; // the greeting
        monitor.call(&json!({"execute": "qmp_capabilities"}))?;
        Ok(monitor)
    }

    fn failed(&self, why: impl std::fmt::Display) -> Error {
        Error::Local(format!("QEMU of {} does not answer as it should: {why}", self.host))
    }

    fn line(&mut self) -> Result<Value> {
        let mut line = String::new();
        match self.stream.read_line(&mut line) {
            Ok(0) => Err(self.failed("it has ended")),
            Ok(_) => serde_json::from_str(&line).map_err(|e| self.failed(e)),
            Err(e) => Err(self.failed(e)),
        }
    }

    /// A command's `return`; events in between are left out.
    fn call(&mut self, command: &Value) -> Result<Value> {
        writeln!(self.stream.get_mut(), "{command}").map_err(|e| self.failed(e))?;
        loop {
            let mut answer = self.line()?;
            if let Some(error) = answer.get("error") {
                return Err(self.failed(error));
            }
            if let Some(value) = answer.get_mut("return") {
                return Ok(value.take());
            }
        }
    }
}

/// The reset button: nothing is written first, and a host that hangs is reset too.
pub(super) fn reset(layout: &Layout, number: u32) -> Result<()> {
    Monitor::connect(layout, number)?.call(&json!({"execute": "system_reset"})).map(drop)
}

/// The registers of all processors; where they are when a host hangs.
pub(super) fn processors(layout: &Layout, number: u32) -> Result<String> {
    let command = json!({
        "execute": "human-monitor-command",
        "arguments": {"command-line": "info registers -a"},
    });
    let text = Monitor::connect(layout, number)?.call(&command)?;
    Ok(text.as_str().unwrap_or_default().replace('\r', ""))
}
