//! The project's own files: the recipes of images, and the programs beside this one.

use crate::error::{Error, Result};
use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
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

/// Builds images, or finds them built; returns the folder that has one folder for each.
pub(crate) fn build_images(names: &[String], rebuild: bool) -> Result<PathBuf> {
    let root = root()?;
    let out =
        env::var_os("ECS_IMAGES_DIR").map_or_else(|| root.join("target/images"), PathBuf::from);
    let script = root.join("images/build.sh");
    let mut command = Command::new(&script);
    command.arg("--out").arg(&out).args(rebuild.then_some("--rebuild")).args(names);
    let status = command
        .stdin(Stdio::null())
        .status()
        .map_err(Error::io(format!("cannot run {}", script.display())))?;
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
