//! `ecs-agent`: reconciles one host with its spec.

use agent::{config::Config, instances::keeper, lease};
use clap::Parser as _;
use std::{env, process::ExitCode};
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    if env::args_os().nth(1).is_some_and(|argument| argument == keeper::COMMAND) {
        return exit(keeper::run(env::args_os().skip(1)));
    }
    if env::args_os().nth(1).is_some_and(|argument| argument == lease::keeper::COMMAND) {
        return exit(lease::keeper::run(env::args_os().skip(1)));
    }
    let config = Config::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match runtime {
        Ok(runtime) => exit(runtime.block_on(agent::agent::run(config))),
        Err(e) => {
            eprintln!("ecs-agent: cannot start: {e}");
            ExitCode::FAILURE
        }
    }
}

fn exit(result: agent::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("ecs-agent: {e}");
            ExitCode::FAILURE
        }
    }
}
