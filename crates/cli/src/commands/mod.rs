//! One file for each resource.

pub(crate) mod catalog;
pub(crate) mod connect;
pub(crate) mod disk;
pub(crate) mod eni;
pub(crate) mod host;
pub(crate) mod image;
pub(crate) mod instance;
pub(crate) mod key_pair;
mod pages;
pub(crate) mod security_group;
mod terminal;
pub(crate) mod vpc;
pub(crate) mod vswitch;

use crate::{
    arguments::{Arguments, Command, Global},
    client::Cloud,
    error::Result,
    lab,
    output::{Format, json},
};
use clap::CommandFactory as _;
use serde::Serialize;
use std::process::ExitCode;

/// What a command works with.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) cloud: Cloud,
    pub(crate) region: String,
    pub(crate) format: Format,
    endpoint: Option<String>,
}

impl Context {
    async fn connect(global: Global) -> Result<Self> {
        let cloud = Cloud::connect(global.endpoint.as_deref()).await?;
        Ok(Self { cloud, region: global.region, format: global.output, endpoint: global.endpoint })
    }

    /// Says what an order did: the answer as JSON, the ids by name, or a sentence.
    fn done<T: Serialize>(&self, answer: &T, ids: &[String], sentence: &str) {
        match self.format {
            Format::Json => json::print(answer),
            Format::Name => ids.iter().for_each(|id| println!("{id}")),
            Format::Table | Format::Wide => println!("{sentence}"),
        }
    }
}

/// Runs one command.
pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let global = arguments.global;
    match arguments.command {
        Command::Lab(command) => return lab::run(command, global.output).await,
        Command::Completion { shell } => {
            let mut command = Arguments::command();
            clap_complete::generate(shell, &mut command, "ecsctl", &mut std::io::stdout());
            return Ok(ExitCode::SUCCESS);
        }
        Command::Image(ImageCommand::Build { images, rebuild }) => {
            return image::build(&images, rebuild);
        }
        command => {
            let context = Context::connect(global).await?;
            match command {
                Command::Instance(command) => instance::run(&context, *command).await?,
                Command::Image(command) => image::run(&context, command).await?,
                Command::Vpc(command) => vpc::run(&context, command).await?,
                Command::Vswitch(command) => vswitch::run(&context, command).await?,
                Command::SecurityGroup(command) => security_group::run(&context, command).await?,
                Command::KeyPair(command) => key_pair::run(&context, command).await?,
                Command::InstanceType(command) => catalog::instance_type(&context, command).await?,
                Command::Region(command) => catalog::region(&context, command).await?,
                Command::Zone(command) => catalog::zone(&context, command).await?,
                Command::Disk(command) => disk::run(&context, command).await?,
                Command::Eni(command) => eni::run(&context, command).await?,
                Command::Host(command) => host::run(&context, command).await?,
                Command::Console(arguments) => return connect::console(&context, arguments).await,
                Command::Ssh(arguments) => return connect::ssh(&context, arguments).await,
                Command::Tunnel(arguments) => return connect::tunnel(&context, arguments).await,
                Command::Lab(_) | Command::Completion { .. } => {}
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

use image::ImageCommand;
