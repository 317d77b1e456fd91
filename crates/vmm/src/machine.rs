//! Puts the machine together, runs it, and takes it apart.

use crate::{
    acpi,
    boot::{self, Payload},
    bus::Bus,
    config::{self, inherited, open_file},
    console::{Console, ConsoleLog, ConsoleThread, Output, RawTerminal},
    context::MachineContext,
    control::{ControlThread, Listeners},
    devices::Devices,
    error::VmmError,
    events::{Events, Exit},
    irq::{IrqLine, LevelLine},
    jail,
    layout::{self, PciWindows},
    legacy::{
        clock::Clock, ged::EventDevice, panic_port::PanicPort, power::PowerRegisters,
        reset::KeyboardController, serial::SerialPort,
    },
    memory,
    pci::hotplug::HotplugController,
    say::say,
    service::MachineService,
    smbios::{self, Identity},
    thread::{self, ThreadKind},
    vcpu::{self, Gate, RunState, VcpuThread, cpuid},
};
use api::vmm::{VmConfig, VmState};
use kvm_bindings::KVM_MAX_CPUID_ENTRIES;
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use std::{
    fmt,
    fs::{self, File},
    os::unix::{
        fs::{PermissionsExt as _, chown},
        net::UnixListener,
    },
    path::Path,
    sync::Arc,
};
use uuid::Uuid;

/// A machine with everything opened and attached, before its jail closes and its guest starts.
pub struct Machine {
    config: VmConfig,
    context: MachineContext,
    windows: PciWindows,
    uuid: Uuid,
    payload: Payload,
    vcpus: Vec<VcpuFd>,
    power: Arc<PowerRegisters>,
    serial: Arc<SerialPort>,
    output: Output,
    console: Option<Console>,
    listeners: Option<Listeners>,
    devices: Arc<Devices>,
    gate: Arc<Gate>,
}

impl fmt::Debug for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Machine").field("config", &self.config).finish_non_exhaustive()
    }
}

impl Machine {
    /// Opens all the description names and attaches all devices.
    ///
    /// # Errors
    /// [`VmmError`] if the description or the host refuses.
    pub fn new(config: VmConfig, events: Events) -> Result<Self, VmmError> {
        let uuid = config::validate(&config)?;
        let payload = open_payload(&config)?;
        let kvm = open_kvm()?;
        let vm = create_vm(&kvm)?;
        let memory = memory::allocate(config.memory_bytes)?;
        memory::register(&vm, &memory)?;
        let context = MachineContext {
            vm: Arc::new(vm),
            memory,
            mmio: Arc::new(Bus::new()),
            pio: Arc::new(Bus::new()),
            events,
            vcpus: config.vcpus,
        };
        let supported = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(|error| VmmError::host("KVM_GET_SUPPORTED_CPUID", error))?;
        let bits = cpuid::physical_bits(&supported);
        if layout::end_of_ram(config.memory_bytes) > 1 << bits.min(63) {
            return Err(VmmError::TooLarge {
                field: "memory_bytes",
                limit: format!("this host's CPU addresses {bits} bits; lower it"),
            });
        }
        let windows = PciWindows::new(config.memory_bytes, bits);
        let topology = cpuid::Topology {
            vcpus: config.vcpus,
            tsc_deadline: kvm.check_extension(Cap::TscDeadlineTimer),
        };
        let max = kvm.get_max_vcpus();
        if config.vcpus as usize > max {
            return Err(VmmError::TooLarge {
                field: "vcpus",
                limit: format!("this host's KVM runs at most {max} per machine; lower it"),
            });
        }
        let mut vcpus = Vec::new();
        for id in 0..config.vcpus {
            let what = |call: &str| format!("vCPU {id}: {call}");
            let vcpu = context
                .vm
                .create_vcpu(id.into())
                .map_err(|error| VmmError::host(what("KVM_CREATE_VCPU"), error))?;
            let cpuid = cpuid::for_vcpu(&supported, id, topology)
                .map_err(|error| VmmError::host(what("CPUID"), error))?;
            vcpu.set_cpuid2(&cpuid)
                .map_err(|error| VmmError::host(what("KVM_SET_CPUID2"), error))?;
            vcpu::registers::reset(&vcpu)
                .map_err(|error| VmmError::host(what("registers"), error))?;
            vcpus.push(vcpu);
        }
        let (output, serial, power, hotplug) = attach_legacy(&context)?;
        let devices = Devices::attach(&context, &windows, &config, &hotplug)?;
        let console = open_console(&config)?;
        let listeners = open_control(&config)?;
        Ok(Self {
            config,
            context,
            windows,
            uuid,
            payload,
            vcpus,
            power,
            serial,
            output,
            console: Some(console),
            listeners: Some(listeners),
            devices: Arc::new(devices),
            gate: Arc::new(Gate::new()),
        })
    }

    /// Closes the jail, loads the guest, starts all threads and waits for the machine's end.
    ///
    /// # Errors
    /// [`VmmError`] if the jail cannot be closed, or the guest not be loaded or started.
    pub fn run(mut self) -> Result<Exit, VmmError> {
        let terminal = match &self.config.console {
            Some(console) if console.stdio => {
                RawTerminal::enter().map_err(|error| VmmError::host("terminal", error))?
            }
            _ => None,
        };
        vcpu::install_kick_handler().map_err(|error| VmmError::host("kick signal", error))?;
        self.close_jail()?;
        // The kernel comes from the guest's own disk, so it is read inside the jail.
        self.load()?;
        let console = self.start_console()?;
        let control = self.start_control()?;
        let threads = self.start_vcpus()?;
        self.context.events.publish(VmState::Running, "the guest runs");
        self.gate.set(RunState::Running);
        let exit = self.context.events.wait_for_exit();
        self.gate.set(RunState::Stopped);
        for thread in threads {
            thread.join();
        }
        self.devices.stop();
        if let Err(error) = self.devices.disks().flush() {
            say(format_args!("at the end: {error}"));
        }
        console.finish();
        control.finish();
        drop(terminal);
        Ok(exit)
    }

    fn close_jail(&self) -> Result<(), VmmError> {
        let confine = match &self.config.jail {
            Some(wanted) => {
                jail::close(wanted, self.devices.files_to_come())?;
                wanted.seccomp.then_some(jail::seccomp::confine as thread::Confine)
            }
            None => None,
        };
        let host = |error| VmmError::host("threads", error);
        if confine.is_some() {
            jail::seccomp::report_violations().map_err(host)?;
        }
        thread::release(confine).map_err(host)?;
        if let Some(confine) = confine {
            confine(ThreadKind::Main).map_err(|error| host(std::io::Error::other(error)))?;
        }
        Ok(())
    }

    fn start_control(&mut self) -> Result<ControlThread, VmmError> {
        let failed = |error| VmmError::host("control thread", error);
        let service = MachineService::new(
            &self.config,
            self.context.events.clone(),
            Arc::clone(&self.gate),
            Arc::clone(&self.power),
            Arc::clone(&self.devices),
        );
        let listeners = match self.listeners.take() {
            Some(listeners) => listeners,
            None => Listeners::new(None).map_err(failed)?,
        };
        listeners.start(Arc::new(service), self.context.events.clone()).map_err(failed)
    }

    fn load(&mut self) -> Result<(), VmmError> {
        let memory = &self.context.memory;
        let entry = boot::load(&mut self.payload, memory, self.config.memory_bytes, acpi::RSDP)?;
        let slots = self.devices.changing_slots();
        acpi::write(memory, self.config.vcpus, &self.windows, slots)
            .map_err(|error| VmmError::host("ACPI tables", error))?;
        let product = match self.config.product_name.as_str() {
            "" => smbios::PRODUCT,
            name => name,
        };
        let identity = Identity {
            instance_id: &self.config.instance_id,
            uuid: self.uuid,
            product,
            memory_bytes: self.config.memory_bytes,
            vcpus: self.config.vcpus,
        };
        smbios::write(memory, &identity).map_err(|error| VmmError::host("SMBIOS", error))?;
        boot::write_reset_vector(memory)?;
        if let Some(first) = self.vcpus.first() {
            vcpu::registers::enter(first, memory, entry)
                .map_err(|error| VmmError::host("vCPU 0: registers", error))?;
        }
        Ok(())
    }

    fn start_console(&mut self) -> Result<ConsoleThread, VmmError> {
        let console =
            self.console.take().unwrap_or(Console { log: None, listener: None, stdio: false });
        console
            .start(self.output.clone(), Arc::clone(&self.serial), self.context.events.clone())
            .map_err(|error| VmmError::host("console thread", error))
    }

    fn start_vcpus(&mut self) -> Result<Vec<VcpuThread>, VmmError> {
        let mut threads = Vec::new();
        for (id, vcpu) in (0u32..).zip(self.vcpus.drain(..)) {
            let thread = vcpu::start(
                id,
                vcpu,
                Arc::clone(&self.gate),
                Arc::clone(&self.context.mmio),
                Arc::clone(&self.context.pio),
                self.context.events.clone(),
            )
            .map_err(|error| VmmError::host(format!("vCPU {id}: thread"), error))?;
            threads.push(thread);
        }
        Ok(threads)
    }
}

fn open_payload(config: &VmConfig) -> Result<Payload, VmmError> {
    let boot = config.boot.clone().unwrap_or_default();
    let open = |field, file| {
        open_file(field, file).map_err(|error| VmmError::host(error.to_string(), error.source))
    };
    let kernel: File = open("boot.kernel", boot.kernel.as_ref())?;
    let initrd = match &boot.initrd {
        Some(file) => Some(open("boot.initrd", Some(file))?),
        None => None,
    };
    Ok(Payload { kernel, initrd, cmdline: boot.cmdline })
}

fn open_kvm() -> Result<Kvm, VmmError> {
    Kvm::new().map_err(|error| {
        VmmError::host("cannot open /dev/kvm (is KVM loaded, and may this user use it?)", error)
    })
}

fn create_vm(kvm: &Kvm) -> Result<VmFd, VmmError> {
    let host = |what: &'static str| move |error| VmmError::host(what, error);
    let vm = kvm.create_vm().map_err(host("KVM_CREATE_VM"))?;
    vm.set_identity_map_address(layout::KVM_IDENTITY_MAP)
        .map_err(host("KVM_SET_IDENTITY_MAP_ADDR"))?;
    vm.set_tss_address(layout::KVM_TSS as usize).map_err(host("KVM_SET_TSS_ADDR"))?;
    vm.create_irq_chip().map_err(host("KVM_CREATE_IRQCHIP"))?;
    Ok(vm)
}

type Legacy = (Output, Arc<SerialPort>, Arc<PowerRegisters>, Arc<HotplugController>);

fn attach_legacy(context: &MachineContext) -> Result<Legacy, VmmError> {
    let line = |what: &str, gsi| {
        IrqLine::new(&context.vm, gsi)
            .map_err(|error| VmmError::host(format!("{what}: irq"), error))
    };
    let output = Output::new().map_err(|error| VmmError::host("console", error))?;
    let serial = Arc::new(SerialPort::new(line("serial", layout::COM1_GSI)?, output.clone()));
    let notices =
        Arc::new(EventDevice::new(LevelLine::new(Arc::clone(&context.vm), layout::GED_GSI)));
    let power = Arc::new(PowerRegisters::new(context.events.clone(), Arc::clone(&notices)));
    let hotplug = Arc::new(HotplugController::new(Arc::clone(&notices)));
    let pio = &context.pio;
    pio.insert(layout::COM1, 8, serial.clone())?;
    pio.insert(PowerRegisters::BASE, PowerRegisters::LEN, power.clone())?;
    pio.insert(layout::GED_EVENTS, 1, notices)?;
    pio.insert(HotplugController::BASE, HotplugController::LEN, hotplug.clone())?;
    pio.insert(layout::RTC, 2, Arc::new(Clock::new()))?;
    pio.insert(layout::PVPANIC, 1, Arc::new(PanicPort::new(context.events.clone())))?;
    let controller = KeyboardController::new(context.events.clone());
    pio.insert(layout::I8042_COMMAND, 1, Arc::new(controller))?;
    Ok((output, serial, power, hotplug))
}

fn open_console(config: &VmConfig) -> Result<Console, VmmError> {
    let wanted = config.console.clone().unwrap_or_default();
    let log = if wanted.log_fd != 0 {
        let file = inherited(wanted.log_fd)
            .map_err(|error| VmmError::host(format!("console.log_fd {}", wanted.log_fd), error))?;
        Some(ConsoleLog::from_file(file, wanted.log_limit_bytes))
    } else if wanted.log_path.is_empty() {
        None
    } else {
        Some(ConsoleLog::open(Path::new(&wanted.log_path), wanted.log_limit_bytes))
    };
    let log = log
        .transpose()
        .map_err(|error| VmmError::host(format!("console.log_path {}", wanted.log_path), error))?;
    let listener = if wanted.socket_path.is_empty() {
        None
    } else {
        Some(listen(config, &wanted.socket_path)?)
    };
    Ok(Console { log, listener, stdio: wanted.stdio })
}

fn open_control(config: &VmConfig) -> Result<Listeners, VmmError> {
    let socket = match config.control_socket.as_str() {
        "" => None,
        path => Some(listen(config, path)?),
    };
    Listeners::new(socket).map_err(|error| VmmError::host("control socket", error))
}

/// Listens on a Unix socket only the jail's user may use; one left behind is replaced.
fn listen(config: &VmConfig, path: &str) -> Result<UnixListener, VmmError> {
    let refuse = |error| VmmError::host(format!("cannot listen on {path}"), error);
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(refuse(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(refuse)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(refuse)?;
    if let Some(jail) = &config.jail {
        chown(path, Some(jail.uid), Some(jail.gid)).map_err(refuse)?;
    }
    Ok(listener)
}
