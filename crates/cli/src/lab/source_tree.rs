//! The project's own files: the recipes of images, and the programs beside this one.

use crate::{
    error::{Error, Result},
    output::progress::Progress,
};
use std::{
    env,
    io::{self, BufRead as _, BufReader, IsTerminal as _},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

/// The folder that has `images/build.sh`: above this program, or above the working directory.
fn root() -> Result<PathBuf> {
    let program = env::current_exe().map_err(Error::io("cannot find own executable"))?;
    let here = env::current_dir().map_err(Error::io("cannot find the working directory"))?;
    [program.as_path(), here.as_path()]
        .into_iter()
        .flat_map(Path::ancestors)
        .find(|folder| folder.join("images/build.sh").is_file())
        .map(Path::to_owned)
        .ok_or_else(|| {
            Error::Local(
                "images/build.sh is neither above this program nor above the working directory; \
                 run this in the project's folder"
                    .to_owned(),
            )
        })
}

/// Shows the last step that a script says, and how far it is where that ends in a percentage; all it
/// has said when it fails.
fn with_a_bar(mut command: Command, name: &str) -> io::Result<ExitStatus> {
    let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let progress = Progress::percent(name);
    let mut said = Vec::new();
    if let Some(errors) = child.stderr.take() {
        // A script may say what is no UTF-8; that is shown as far as it is.
        for line in BufReader::new(errors).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            if let Some(percent) = percentage(&line) {
                progress.position(percent);
            }
            progress.set(&line);
            said.push(line);
        }
    }
    let status = child.wait()?;
    progress.done(if status.success() { "ready" } else { "failed" });
    if !status.success() {
        said.iter().for_each(|line| eprintln!("{line}"));
    }
    Ok(status)
}

/// `... 42 %` at the end of a line.
fn percentage(line: &str) -> Option<u64> {
    line.strip_suffix(" %")?.rsplit(' ').next()?.parse().ok().filter(|percent| *percent <= 100)
}

/// Builds images, or finds them built; returns the folder that has one folder for each.
pub(crate) fn build_images(names: &[String], rebuild: bool) -> Result<PathBuf> {
    let root = root()?;
    let out =
        env::var_os("ECS_IMAGES_DIR").map_or_else(|| root.join("target/images"), PathBuf::from);
    let script = root.join("images/build.sh");
    let mut command = Command::new(&script);
    command.arg("--out").arg(&out).args(rebuild.then_some("--rebuild")).args(names);
    let failed = Error::io(format!("cannot run {}", script.display()));
    let status = if std::io::stderr().is_terminal() {
        with_a_bar(command, &names.join(", ")).map_err(failed)?
    } else {
        command.stdin(Stdio::null()).status().map_err(failed)?
    };
    if !status.success() {
        return Err(Error::Local(format!(
            "{} did not make {}",
            script.display(),
            names.join(", ")
        )));
    }
    Ok(out)
}

/// The programs of a host and of the cloud, in `directory`, else beside this one.
#[derive(Debug, Clone)]
pub(crate) struct Programs {
    directory: PathBuf,
}

impl Programs {
    /// What runs on hosts.
    pub(crate) const OF_HOSTS: [&str; 3] = ["ecs-agent", "ecs-vmm", "ecs-bootimage"];

    pub(crate) fn find(directory: Option<&Path>) -> Result<Self> {
        let directory = match directory {
            Some(directory) => {
                std::path::absolute(directory).map_err(Error::file("find", directory))?
            }
            None => env::current_exe()
                .map_err(Error::io("cannot find own executable"))?
                .parent()
                .map(Path::to_owned)
                .unwrap_or_default(),
        };
        let programs = Self { directory };
        for name in Self::OF_HOSTS.into_iter().chain(["ecs-controller"]) {
            if !programs.path(name).is_file() {
                return Err(Error::Local(format!(
                    "{} is not there; build it with `make build`, or name the folder with \
                     --programs",
                    programs.path(name).display()
                )));
            }
        }
        Ok(programs)
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_a_script_is_and_how_it_ends_is_known() {
        assert_eq!(percentage("[ 12s] tiny: packages 42 %"), Some(42));
        assert_eq!(percentage("[ 12s] tiny: packages 4200 %"), None);
        assert_eq!(percentage("42"), None);
        let mut script = Command::new("sh");
        script.args(["-c", "echo 'step 7 %' >&2; exit 3"]);
        assert_eq!(with_a_bar(script, "x").unwrap().code(), Some(3));
    }
}
