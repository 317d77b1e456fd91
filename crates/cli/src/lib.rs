//! ecsctl: the tool for people, and the lab.
//!
//! A command is a file in `commands/` named as its resource: the arguments, the request they make
//! and the table its answer is shown in. `lab/` brings up a whole cloud on this machine.

mod arguments;
mod client;
mod commands;
mod error;
mod lab;
mod output;

use clap::Parser as _;
use std::process::ExitCode;

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    let arguments = arguments::Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("ecsctl: cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(commands::run(arguments));
    // A read of the terminal may still be pending in a thread; nothing waits for it.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) => {
            eprint!("{}", error.report());
            error.exit_code()
        }
    }
}
