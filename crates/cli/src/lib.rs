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
use std::{
    panic,
    process::{self, ExitCode},
};

/// What a shell reports of a program that SIGPIPE ended.
const BROKEN_PIPE: u8 = 128 + 13;

/// Ends without a word when whoever read our output has gone, as `ecsctl ... | head` does. SIGPIPE
/// itself stays ignored: it would also end a command whose connection to the cloud breaks, which is
/// to be reported or waited out.
fn end_quietly_without_a_reader() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let text = info.payload_as_str().unwrap_or_default();
        if text.starts_with("failed printing to std") && text.contains("Broken pipe") {
            process::exit(BROKEN_PIPE.into());
        }
        before(info);
    }));
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    end_quietly_without_a_reader();
    let arguments = arguments::Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("ecsctl: cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    let format = arguments.global.output.format();
    let result = runtime.block_on(commands::run(arguments));
    // A read of the terminal may still be pending in a thread; nothing waits for it.
    runtime.shutdown_background();
    match result {
        Ok(code) => code,
        Err(error) if error.is_passed_dry_run() => {
            match format {
                output::Format::Json => {
                    output::json::print(&serde_json::json!({"dry_run": true, "accepted": true}));
                }
                output::Format::Name => {}
                output::Format::Table | output::Format::Wide => {
                    println!("Dry run: the order would be accepted. Nothing was done.");
                }
            }
            ExitCode::SUCCESS
        }
        Err(error) if error.is_broken_pipe() => ExitCode::from(BROKEN_PIPE),
        Err(error) => {
            eprint!("{}", error.report());
            error.exit_code()
        }
    }
}
