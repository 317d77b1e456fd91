//! `ecsctl console`, `tunnel` and `ssh`.

use super::{Context, instance, terminal};
use crate::error::{Error, Result};
use api::v1::{AttachConsoleRequest, TunnelRequest};
use clap::Args;
use std::{
    env, fs,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, ExitCode},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  ecsctl console i-1\n  ecsctl console i-1 --watch\n\n\
                        Type ~. at the start of a line to leave. With input that is not a terminal, the \
                        end of input leaves too; --watch only looks.")]
pub(crate) struct ConsoleArguments {
    /// Instance id
    id: String,
    /// Send nothing; look until the instance stops
    #[arg(long)]
    watch: bool,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ecsctl ssh i-1 -i demo.pem\n  ecsctl ssh i-1 -- cloud-init status\n\n\
                        The instance's security groups judge the connection as coming from 100.104.0.1."
)]
pub(crate) struct SshArguments {
    /// Instance id
    id: String,
    /// Private key
    #[arg(short, long)]
    identity: Option<PathBuf>,
    /// User to log in as
    #[arg(short, long, default_value = "debian")]
    user: String,
    /// Port of the instance's sshd
    #[arg(short, long, default_value_t = 22)]
    port: u16,
    /// An option of ssh, e.g. ConnectTimeout=5; several for more
    #[arg(short = 'O', long = "option")]
    options: Vec<String>,
    /// Command and arguments
    #[arg(last = true)]
    command: Vec<String>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  ecsctl tunnel i-1 80 --listen 8080     # then http://127.0.0.1:8080\n  \
                        ssh -o ProxyCommand='ecsctl tunnel i-1 22' debian@i-1"
)]
pub(crate) struct TunnelArguments {
    /// Instance id
    id: String,
    /// TCP port of the instance
    port: u16,
    /// Listen here instead of standard input and output: PORT or ADDRESS:PORT
    #[arg(long)]
    listen: Option<String>,
    /// Private address of the instance; default: the primary one
    #[arg(long, default_value = "", hide_default_value = true)]
    address: String,
}

pub(crate) async fn console(context: &Context, arguments: ConsoleArguments) -> Result<ExitCode> {
    let (sender, receiver) = mpsc::channel(16);
    let first = AttachConsoleRequest { instance_id: arguments.id.clone(), data: Vec::new() };
    let _ = sender.send(first).await;
    let mut output =
        context.cloud.instances().attach_console(ReceiverStream::new(receiver)).await?.into_inner();
    let raw = terminal::Raw::enter()?;
    if raw.is_terminal() {
        eprint!("Attached to {}; ~. leaves.\r\n", arguments.id);
    }
    let mut screen = tokio::io::stdout();
    let mut keys = (!arguments.watch).then(terminal::input);
    let mut escape = terminal::Escape::new();
    let result = loop {
        let key = async {
            match &mut keys {
                Some(keys) => keys.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            answer = output.message() => match answer {
                Ok(Some(answer)) => {
                    let written = async {
                        screen.write_all(&answer.data).await?;
                        screen.flush().await
                    };
                    if written.await.is_err() {
                        break Ok(());
                    }
                }
                Ok(None) => break Ok(()),
                Err(status) => break Err(status.into()),
            },
            input = key => {
                let Some(input) = input else { break Ok(()) };
                let (data, leave) = escape.filter(&input);
                let message = AttachConsoleRequest { instance_id: String::new(), data };
                if leave || sender.send(message).await.is_err() {
                    break Ok(());
                }
            }
        }
    };
    drop(raw);
    if std::io::IsTerminal::is_terminal(&std::io::stdin()) {
        eprintln!("\nDetached from {}.", arguments.id);
    }
    result.map(|()| ExitCode::SUCCESS)
}

/// One connection through the cloud.
struct Tunnel {
    sender: mpsc::Sender<TunnelRequest>,
    answers: Streaming<api::v1::TunnelResponse>,
}

impl Tunnel {
    async fn open(context: &Context, arguments: &TunnelArguments) -> Result<Self> {
        let (sender, receiver) = mpsc::channel(16);
        let first = TunnelRequest {
            instance_id: arguments.id.clone(),
            private_ip_address: arguments.address.clone(),
            port: u32::from(arguments.port),
            data: Vec::new(),
        };
        let _ = sender.send(first).await;
        let answers =
            context.cloud.instances().tunnel(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Self { sender, answers })
    }

    /// Copies both ways until both have ended.
    async fn join(
        self,
        mut reader: impl Reader,
        mut writer: impl tokio::io::AsyncWrite + Unpin,
    ) -> Result<()> {
        let Self { sender, mut answers } = self;
        let up = async {
            while let Some(data) = reader.next().await {
                if sender.send(TunnelRequest { data, ..Default::default() }).await.is_err() {
                    break;
                }
            }
            drop(sender);
        };
        let down = async {
            while let Some(answer) = answers.message().await? {
                writer
                    .write_all(&answer.data)
                    .await
                    .map_err(Error::io("cannot pass on what came"))?;
                writer.flush().await.map_err(Error::io("cannot pass on what came"))?;
            }
            let _ = writer.shutdown().await;
            Ok::<_, Error>(())
        };
        tokio::pin!(up, down);
        // The instance's end ends it; the end of our input alone does not: an answer may come.
        tokio::select! {
            result = &mut down => result,
            () = &mut up => down.await,
        }
    }
}

/// Where a tunnel's bytes come from.
trait Reader {
    async fn next(&mut self) -> Option<Vec<u8>>;
}

impl Reader for mpsc::Receiver<Vec<u8>> {
    async fn next(&mut self) -> Option<Vec<u8>> {
        self.recv().await
    }
}

impl Reader for tokio::net::tcp::OwnedReadHalf {
    async fn next(&mut self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 32 << 10];
        let length = self.read(&mut buffer).await.unwrap_or(0);
        buffer.truncate(length);
        (length > 0).then_some(buffer)
    }
}

pub(crate) async fn tunnel(context: &Context, arguments: TunnelArguments) -> Result<ExitCode> {
    let Some(listen) = &arguments.listen else {
        let tunnel = Tunnel::open(context, &arguments).await?;
        tunnel.join(terminal::input(), tokio::io::stdout()).await?;
        return Ok(ExitCode::SUCCESS);
    };
    let address = if listen.contains(':') { listen.clone() } else { format!("127.0.0.1:{listen}") };
    let listener = TcpListener::bind(&address)
        .await
        .map_err(Error::io(format!("cannot listen on {address}")))?;
    let local = listener.local_addr().map_err(Error::io("cannot listen"))?;
    eprintln!("{local} leads to port {} of {}; Ctrl-C ends.", arguments.port, arguments.id);
    let serve = async |stream: TcpStream| {
        let _ = stream.set_nodelay(true);
        let (reader, writer) = stream.into_split();
        let result = match Tunnel::open(context, &arguments).await {
            Ok(tunnel) => tunnel.join(reader, writer).await,
            Err(error) => Err(error),
        };
        if let Err(error) = result {
            eprint!("{}", error.report());
        }
    };
    let mut connections = futures::stream::FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted.map_err(Error::io("cannot accept a connection"))?;
                connections.push(serve(stream));
            }
            Some(()) = futures::StreamExt::next(&mut connections) => {}
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// Known hosts are kept per instance: addresses are used again, host keys never are.
fn known_hosts(id: &str) -> Result<PathBuf> {
    let home = env::var_os("HOME").map(PathBuf::from).ok_or_else(|| {
        Error::Local("HOME is not set, so there is no place for known host keys".to_owned())
    })?;
    let folder = home.join(".cache/ecsctl/known-hosts");
    fs::create_dir_all(&folder).map_err(Error::file("make", &folder))?;
    Ok(folder.join(id))
}

pub(crate) async fn ssh(context: &Context, arguments: SshArguments) -> Result<ExitCode> {
    let instance = instance::find(context, &arguments.id).await?;
    if instance.status != "Running" {
        return Err(Error::Failed(format!(
            "instance {} is {}, not Running; `ecsctl instance start {} --wait` starts it",
            arguments.id, instance.status, arguments.id
        )));
    }
    let program = env::current_exe().map_err(Error::io("cannot find own executable"))?;
    let endpoint = match &context.endpoint {
        Some(endpoint) => format!("--endpoint {} ", quote(endpoint)),
        None => String::new(),
    };
    let proxy = format!(
        "{} {endpoint}tunnel {} {}",
        quote(&program.display().to_string()),
        arguments.id,
        arguments.port
    );
    let mut ssh = Command::new("ssh");
    ssh.arg("-o")
        .arg(format!("ProxyCommand={}", proxy.replace('%', "%%")))
        .arg("-o")
        .arg(format!("UserKnownHostsFile={}", known_hosts(&arguments.id)?.display()))
        .args(["-o", "StrictHostKeyChecking=accept-new", "-o", "GlobalKnownHostsFile=/dev/null"])
        .arg("-o")
        .arg(format!("HostKeyAlias={}", arguments.id));
    if let Some(identity) = &arguments.identity {
        ssh.arg("-i").arg(identity).args(["-o", "IdentitiesOnly=yes"]);
    }
    for option in &arguments.options {
        ssh.args(["-o", option]);
    }
    ssh.args(["-l", &arguments.user]).arg(&arguments.id).args(&arguments.command);
    Err(Error::io("cannot run ssh")(ssh.exec()))
}

/// A word for the shell that ssh runs a ProxyCommand with.
fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_word_stays_one_word() {
        assert_eq!(quote("/a b/it's"), "'/a b/it'\\''s'");
    }
}
