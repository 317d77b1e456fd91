//! Runs one microVM in this process, or talks to a process that does.

mod ctl;

use clap::{Parser, Subcommand};
use std::process::ExitCode;
use vmm::{
    config::{RunArguments, close_given},
    error::VmmError,
    events::Events,
    jail,
    machine::Machine,
    say::say,
    thread,
};

/// One microVM.
#[derive(Debug, Parser)]
#[command(name = "ecs-vmm", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a machine in this process until it ends
    ///
    /// Exit codes: 0 the guest powered off, 64 the description was refused, 65 the kernel was
    /// refused, 66 the host refused something, 67 the guest failed, 68 the guest asked for a
    /// reset. With the console on a terminal, Ctrl-A x ends the machine.
    Run(Box<RunArguments>),
    /// Ask something of a running machine
    Ctl(ctl::CtlArguments),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(arguments) => run(*arguments),
        Command::Ctl(arguments) => ctl::run(&arguments),
    }
}

fn run(arguments: RunArguments) -> ExitCode {
    keep_allocator_small();
    jail::raise_open_files();
    thread::hold();
    let result = arguments
        .into_config()
        .map_err(VmmError::from)
        .and_then(|config| {
            let machine = Machine::new(config.clone(), Events::new())?;
            // A process's own choice: tests have several machines in one.
            close_given(&config);
            Ok(machine)
        })
        .and_then(Machine::run);
    let code = match result {
        Ok(exit) => {
            say(format_args!("{exit}"));
            exit.code()
        }
        Err(error) => {
            say(format_args!("{error}"));
            error.code()
        }
    };
    ExitCode::from(code as u8)
}

/// One arena for all threads, and freed memory back to the host at once: allocations are few and
/// small here, and memory beyond the guest's is what this process is measured by.
fn keep_allocator_small() {
    const TRIM_THRESHOLD: i32 = 64 << 10;
    // SAFETY: there is one thread yet, and the parameters are those of malloc.h.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_TRIM_THRESHOLD, TRIM_THRESHOLD);
    }
}
