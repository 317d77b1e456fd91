//! One file for each resource.

pub(crate) mod catalog;
pub(crate) mod connect;
pub(crate) mod disk;
pub(crate) mod eip;
pub(crate) mod eni;
pub(crate) mod host;
pub(crate) mod image;
pub(crate) mod instance;
pub(crate) mod key_pair;
pub(crate) mod nat_gateway;
pub(crate) mod net;
mod pages;
pub(crate) mod pool;
pub(crate) mod prefix_list;
pub(crate) mod route_table;
pub(crate) mod security_group;
pub(crate) mod snapshot;
pub(crate) mod snapshot_policy;
mod terminal;
pub(crate) mod vpc;
pub(crate) mod vswitch;

use crate::{
    arguments::{Arguments, Command, Global},
    client::Cloud,
    error::{Error, Result},
    lab,
    output::{Format, json},
};
use api::v1::Tag;
use clap::CommandFactory as _;
use clap_complete::Shell;
use image::ImageCommand;
use serde::Serialize;
use std::{io::Write as _, process::ExitCode};

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
        let format = global.output.format();
        Ok(Self { cloud, region: global.region, format, endpoint: global.endpoint })
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

/// A tag as named on the command line.
fn tag(text: &str) -> std::result::Result<Tag, String> {
    let (key, value) = text.split_once('=').ok_or("a tag is KEY=VALUE")?;
    Ok(Tag { key: key.to_owned(), value: value.to_owned() })
}

/// Runs one command.
pub(crate) async fn run(arguments: Arguments) -> Result<ExitCode> {
    let format = arguments.global.output.format();
    let svg = arguments.global.output.is_svg();
    if svg && !matches!(&arguments.command, Command::Net(command) if command.draws()) {
        return Err(Error::Local("only `ecsctl net topology` draws; leave -o svg out".to_owned()));
    }
    // Connects when it is awaited, which what needs no cloud does not do.
    let context = Context::connect(arguments.global);
    let done = match arguments.command {
        Command::Lab(command) => return lab::run(command, format).await,
        Command::Console(arguments) => return connect::console(&context.await?, arguments).await,
        Command::Ssh(arguments) => return connect::ssh(&context.await?, arguments).await,
        Command::Tunnel(arguments) => return connect::tunnel(&context.await?, arguments).await,
        Command::Net(command) => return net::run(&context.await?, command, svg).await,
        Command::Completion { shell } => completion(shell),
        Command::Image(ImageCommand::Build { images, rebuild }) => image::build(&images, rebuild),
        Command::Image(ImageCommand::OfTheCloud(command)) => {
            image::run(&context.await?, *command).await
        }
        Command::Instance(command) => instance::run(&context.await?, *command).await,
        Command::Vpc(command) => vpc::run(&context.await?, command).await,
        Command::Vswitch(command) => vswitch::run(&context.await?, command).await,
        Command::SecurityGroup(command) => security_group::run(&context.await?, command).await,
        Command::KeyPair(command) => key_pair::run(&context.await?, command).await,
        Command::InstanceType(command) => catalog::instance_type(&context.await?, command).await,
        Command::Region(command) => catalog::region(&context.await?, command).await,
        Command::Zone(command) => catalog::zone(&context.await?, command).await,
        Command::Disk(command) => disk::run(&context.await?, command).await,
        Command::Snapshot(command) => snapshot::run(&context.await?, command).await,
        Command::SnapshotPolicy(command) => snapshot_policy::run(&context.await?, command).await,
        Command::RouteTable(command) => route_table::run(&context.await?, command).await,
        Command::Eip(command) => eip::run(&context.await?, command).await,
        Command::NatGateway(command) => nat_gateway::run(&context.await?, command).await,
        Command::PrefixList(command) => prefix_list::run(&context.await?, command).await,
        Command::Eni(command) => eni::run(&context.await?, command).await,
        Command::Host(command) => host::run(&context.await?, command).await,
        Command::Pool(command) => pool::run(&context.await?, command).await,
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn completion(shell: Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Arguments::command(), "ecsctl", &mut script);
    let mut output = std::io::stdout().lock();
    output
        .write_all(&script)
        .and_then(|()| output.flush())
        .map_err(Error::io("cannot write to standard output"))
}
