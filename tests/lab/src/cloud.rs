//! One cloud, used through `ecsctl`.

use crate::wait;
use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use std::{
    env,
    ffi::OsStr,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::Duration,
};

/// More than any command is given by its own limits; one that hangs ends the test, not the run.
const LIMIT_SECONDS: &str = "1000";
/// What `timeout` ends with when it had to end the program.
const TIMED_OUT: i32 = 124;

/// A cloud that runs.
#[derive(Debug, Clone)]
pub struct Cloud {
    program: PathBuf,
}

/// An order that the cloud refused.
#[derive(Debug)]
pub struct Refusal {
    /// Exit code of `ecsctl`.
    pub code: i32,
    /// The whole report: code, message, request id, hint.
    pub text: String,
}

impl Refusal {
    /// That the report has each of `parts`, and is an answer rather than a crash or a time-out.
    ///
    /// # Errors
    /// When it is not so.
    pub fn says(&self, parts: &[&str]) -> Result<()> {
        ensure!(self.code == 1 || self.code == 3, "exit code {}: {}", self.code, self.text);
        for part in parts {
            ensure!(self.text.contains(part), "no {part:?} in: {}", self.text);
        }
        Ok(())
    }
}

/// The project's folder.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

impl Cloud {
    /// The lab of `ECS_LAB_DIR`.
    ///
    /// # Errors
    /// When no lab runs there.
    pub fn of_the_lab() -> Result<Self> {
        let program = match env::var_os("ECSCTL") {
            Some(program) => PathBuf::from(program),
            None => root().join("target/release/ecsctl"),
        };
        ensure!(
            program.is_file(),
            "{} is not there; build it with `make build`, or name it in ECSCTL",
            program.display()
        );
        ensure!(
            env::var_os("ECS_LAB_DIR").is_some(),
            "ECS_LAB_DIR is not set; `make test` starts a lab for these tests"
        );
        let cloud = Self { program };
        cloud.run(["host", "list", "-o", "name"]).context("the lab does not answer")?;
        Ok(cloud)
    }

    /// Where `ecsctl` is.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// Runs `ecsctl` and gives what it did.
    ///
    /// # Errors
    /// When it cannot be started or does not end.
    pub fn output<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
        input: &[u8],
    ) -> Result<Output> {
        let arguments: Vec<_> = arguments.into_iter().map(|a| a.as_ref().to_owned()).collect();
        let mut child = Command::new("timeout")
            .args(["--kill-after=10", LIMIT_SECONDS])
            .arg(&self.program)
            .args(&arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run ecsctl")?;
        if let Some(mut stdin) = child.stdin.take() {
            // A program that has ended reads no more.
            let _ = stdin.write_all(input);
        }
        let output = child.wait_with_output()?;
        ensure!(
            output.status.code() != Some(TIMED_OUT),
            "ecsctl {arguments:?} did not end in {LIMIT_SECONDS} s: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(output)
    }

    /// Standard output of a command that must succeed.
    ///
    /// # Errors
    /// When it fails; its report is in the error.
    pub fn run<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<String> {
        let arguments: Vec<_> = arguments.into_iter().map(|a| a.as_ref().to_owned()).collect();
        let output = self.output(&arguments, b"")?;
        if !output.status.success() {
            bail!(
                "ecsctl {arguments:?}: {}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// The id or name that a command prints with `-o name`.
    ///
    /// # Errors
    /// When it fails or prints nothing.
    pub fn id<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<String> {
        let arguments = arguments.into_iter().map(|a| a.as_ref().to_owned());
        let text = self.run(["-o".into(), "name".into()].into_iter().chain(arguments))?;
        text.lines().next().map(str::to_owned).context("no id in the answer")
    }

    /// The ids of the instances of a VPC.
    ///
    /// # Errors
    /// When the cloud does not answer.
    pub fn instances_of(&self, vpc: &str) -> Result<Vec<String>> {
        let ids = self.run(["-o", "name", "instance", "list", "--vpc", vpc])?;
        Ok(ids.lines().map(str::to_owned).collect())
    }

    /// Deletes instances, all at the same time.
    ///
    /// # Errors
    /// When one is left.
    pub fn delete_all(&self, instances: &[String]) -> Result<()> {
        if instances.is_empty() {
            return Ok(());
        }
        let wait = ["--force", "--wait", "--timeout", "120"].map(str::to_owned);
        let order = ["instance", "delete"].map(str::to_owned);
        self.run(order.iter().chain(instances).chain(&wait)).map(drop)
    }

    /// The answer of a command as JSON.
    ///
    /// # Errors
    /// When it fails or prints something else.
    pub fn json<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Result<Value> {
        let arguments = arguments.into_iter().map(|a| a.as_ref().to_owned());
        let text = self.run(["-o".into(), "json".into()].into_iter().chain(arguments))?;
        serde_json::from_str(&text).with_context(|| format!("not JSON: {text}"))
    }

    /// The report of a command that must be refused.
    ///
    /// # Errors
    /// When it succeeds.
    pub fn refused<A: AsRef<OsStr>>(
        &self,
        arguments: impl IntoIterator<Item = A>,
    ) -> Result<Refusal> {
        let arguments: Vec<_> = arguments.into_iter().map(|a| a.as_ref().to_owned()).collect();
        let output = self.output(&arguments, b"")?;
        ensure!(!output.status.success(), "ecsctl {arguments:?} was not refused");
        Ok(Refusal {
            code: output.status.code().unwrap_or(-1),
            text: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// One instance as JSON, if there is one of that id.
    ///
    /// # Errors
    /// When the cloud does not answer.
    pub fn instance(&self, id: &str) -> Result<Option<Value>> {
        let list = self.json(["instance", "list", id])?;
        Ok(list.as_array().and_then(|list| list.first().cloned()))
    }

    /// One field of an instance, as text.
    ///
    /// # Errors
    /// When there is no such instance.
    pub fn field(&self, id: &str, pointer: &str) -> Result<String> {
        let instance = self.instance(id)?.with_context(|| format!("there is no instance {id}"))?;
        let value = instance.pointer(pointer).with_context(|| format!("{id} has no {pointer}"))?;
        Ok(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }

    /// What an instance has printed on its console, the last 64 KiB.
    ///
    /// # Errors
    /// When the cloud does not answer.
    pub fn console(&self, id: &str) -> Result<String> {
        self.run(["instance", "console-output", id, "--plain"])
    }

    /// The smallest type that a host of this lab can run.
    ///
    /// # Errors
    /// When there is none.
    pub fn smallest_type(&self) -> Result<String> {
        let types = self.json(["instance-type", "list", "--available"])?;
        let types = types.as_array().context("no list of types")?;
        let least = types.iter().min_by(|a, b| {
            let size = |t: &Value| {
                (
                    t["cpu_core_count"].as_u64().unwrap_or(0),
                    t["memory_size"].as_f64().unwrap_or(0.0),
                )
            };
            size(a).partial_cmp(&size(b)).unwrap_or(std::cmp::Ordering::Equal)
        });
        let id = least.and_then(|t| t["instance_type_id"].as_str());
        Ok(id.context("no host can run any instance type")?.to_owned())
    }

    /// An image made by `images/build.sh`, imported once for all tests.
    ///
    /// # Errors
    /// When it was not built or is refused.
    pub fn image(&self, name: &str) -> Result<String> {
        let listed = self.json(["image", "list", "--name", name, "--status", "Available"])?;
        if let Some(id) = listed.pointer("/0/image_id").and_then(Value::as_str) {
            return Ok(id.to_owned());
        }
        let file = images().join(name).join(format!("{name}.qcow2"));
        self.id([
            OsStr::new("image"),
            "import".as_ref(),
            file.as_ref(),
            "--name".as_ref(),
            name.as_ref(),
        ])
    }

    /// Runs a shell command on a host of the lab, which may be this machine itself.
    ///
    /// # Errors
    /// When it fails.
    pub fn on_host(&self, host: &str, command: &str) -> Result<String> {
        self.run(["lab", "ssh", host, "--", command])
    }

    /// The names of the lab's hosts.
    ///
    /// # Errors
    /// When there is no lab.
    pub fn hosts(&self) -> Result<Vec<String>> {
        let lab = self.json(["lab", "status"])?;
        let hosts = lab["hosts"].as_array().context("the lab names no hosts")?;
        Ok(hosts.iter().filter_map(|host| host["name"].as_str()).map(str::to_owned).collect())
    }

    /// Whether the lab's host is this machine itself.
    ///
    /// # Errors
    /// When there is no lab.
    pub fn is_native(&self) -> Result<bool> {
        Ok(self.json(["lab", "status"])?["lab"]["kind"] == "native")
    }

    /// Where agents keep their things on their hosts: `state`, `run`, `netns` or `cgroup`.
    ///
    /// # Errors
    /// When there is no lab.
    pub fn path(&self, what: &str) -> Result<String> {
        let lab = self.json(["lab", "status"])?;
        let path = lab["paths"][what].as_str();
        Ok(path.with_context(|| format!("the lab says no path of {what}"))?.to_owned())
    }

    /// Types on the serial console of an instance.
    ///
    /// # Errors
    /// When the console cannot be attached to.
    pub fn type_in(&self, id: &str, text: &str) -> Result<()> {
        let mut child = Command::new("timeout")
            .args(["--kill-after=10", "60"])
            .arg(&self.program)
            .args(["console", id])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot run ecsctl")?;
        let mut stdin = child.stdin.take().context("no standard input")?;
        stdin.write_all(text.as_bytes())?;
        // The end of input detaches at once; what was typed before is given time to arrive.
        thread::sleep(Duration::from_secs(5));
        drop(stdin);
        let status = child.wait()?;
        ensure!(status.success(), "ecsctl console {id}: {status}");
        Ok(())
    }

    /// Types on the serial console of an instance and gives the first whole line with `answer` in it.
    /// What was typed is shown too, so `answer` must not be in it.
    ///
    /// # Errors
    /// When the console closes or `limit` passes first.
    pub fn ask(&self, id: &str, text: &str, answer: &str, limit: Duration) -> Result<String> {
        let mut child = Command::new("timeout")
            .args(["--kill-after=10", &limit.as_secs().to_string()])
            .arg(&self.program)
            .args(["console", id])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run ecsctl")?;
        let mut keys = child.stdin.take().context("no standard input")?;
        let mut screen = BufReader::new(child.stdout.take().context("no standard output")?);
        // One that has ended already says so on its screen.
        let _ = keys.write_all(text.as_bytes());
        let (mut line, mut last) = (Vec::new(), String::new());
        while screen.read_until(b'\n', &mut line)? > 0 {
            last = String::from_utf8_lossy(&line).trim_end().to_owned();
            if line.ends_with(b"\n") && last.contains(answer) {
                // The end of input detaches.
                drop(keys);
                child.wait()?;
                return Ok(last);
            }
            line.clear();
        }
        drop(keys);
        let output = child.wait_with_output()?;
        bail!(
            "no {answer:?} on the console of {id} ({}): {} ... {last}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )
    }

    /// Kills a process of the cloud as a crash would: `controller`, `agent`, `vmm` of an instance, or a
    /// whole `host`.
    ///
    /// # Errors
    /// When there is no such process, nor comes to be: what died a moment ago may not be back yet.
    pub fn crash(&self, what: &[&str]) -> Result<()> {
        wait::until(&format!("{what:?} to kill"), Duration::from_secs(30), || {
            self.run(["lab", "crash"].iter().chain(what)).map(Some)
        })
        .map(drop)
    }
}

/// The folder of built images.
pub fn images() -> PathBuf {
    env::var_os("ECS_IMAGES_DIR").map_or_else(|| root().join("target/images"), PathBuf::from)
}
