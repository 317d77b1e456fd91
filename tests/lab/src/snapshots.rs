//! Snapshots that are taken while a test goes on, and must hold what they did when it ends.

use crate::{Cloud, wait};
use anyhow::{Context as _, Result, ensure};
use std::time::Duration;

/// For a snapshot after everything else has come back.
const SOON: Duration = Duration::from_secs(120);

/// Of one disk of a lab's host. Beside each is a copy that QEMU made of it at once.
#[derive(Debug)]
pub struct Snapshots {
    cloud: Cloud,
    disk: String,
    layers: String,
    copies: String,
    ordered: Option<String>,
    taken: Vec<String>,
}

impl Snapshots {
    /// None yet.
    ///
    /// # Errors
    /// When the host cannot be asked.
    pub fn of(cloud: &Cloud, disk: &str) -> Result<Self> {
        // Where a host that is reset keeps things.
        let state = cloud.path("state")?;
        let (layers, copies) = (format!("{state}/layers"), format!("{state}/copies-of-{disk}"));
        cloud.on_host("lab-1", &format!("mkdir -p {copies}"))?;
        let (cloud, disk) = (cloud.clone(), disk.to_owned());
        Ok(Self { cloud, disk, layers, copies, ordered: None, taken: Vec::new() })
    }

    /// How many have been taken and are there.
    pub fn count(&self) -> usize {
        self.taken.len()
    }

    /// Orders one, which may not be there yet.
    ///
    /// # Errors
    /// When the cloud refuses.
    pub fn order(&mut self) -> Result<()> {
        self.ordered = Some(self.cloud.id(["snapshot", "create", &self.disk])?);
        Ok(())
    }

    /// Waits for the one that was ordered, and copies all of what it holds, with what lies below it.
    ///
    /// # Errors
    /// When it is not taken, or cannot be read.
    pub fn wait(&mut self) -> Result<()> {
        let Some(id) = self.ordered.clone() else { return Ok(()) };
        wait::until(&format!("snapshot {id}"), SOON, || {
            let told = self.cloud.json(["snapshot", "list", &id])?;
            Ok((told[0]["status"] == "accomplished").then_some(()))
        })?;
        let (layers, copies) = (&self.layers, &self.copies);
        // A host that is reset must not lose it.
        let command = format!(
            "qemu-img convert -U -f qcow2 -O qcow2 {layers}/{id}.qcow2 {copies}/{id}.qcow2 \
             && sync -f {copies}"
        );
        self.cloud.on_host("lab-1", &command).with_context(|| format!("copy {id}"))?;
        self.taken.push(id);
        self.ordered = None;
        Ok(())
    }

    /// Deletes the oldest but one, which others lie on: what they need of it is merged into the next.
    ///
    /// # Errors
    /// When the cloud refuses.
    pub fn delete_one(&mut self) -> Result<()> {
        ensure!(self.taken.len() > 1, "there are only {:?}", self.taken);
        self.cloud.run(["snapshot", "delete", &self.taken.remove(1)]).map(drop)
    }

    /// Looks whether each is what it was when it was taken.
    ///
    /// # Errors
    /// When one is not.
    pub fn compare(&self) -> Result<()> {
        let (layers, copies) = (&self.layers, &self.copies);
        let command = format!(
            "for s in {}; do
                 qemu-img check -U -q {layers}/$s.qcow2 >/dev/null 2>&1 || echo $s is not sound
                 qemu-img compare -U -f qcow2 -F qcow2 {layers}/$s.qcow2 {copies}/$s.qcow2 2>&1
             done; true",
            self.taken.join(" ")
        );
        let said = self.cloud.on_host("lab-1", &command)?;
        let same = said.lines().filter(|line| *line == "Images are identical.").count();
        let all = same == self.taken.len() && said.lines().count() == same;
        ensure!(all, "snapshots {:?} are not all what they were: {said}", self.taken);
        Ok(())
    }

    /// Deletes them all, and the copies.
    ///
    /// # Errors
    /// When the cloud refuses.
    pub fn delete(&self) -> Result<()> {
        if !self.taken.is_empty() {
            let ids = self.taken.iter().map(String::as_str);
            let order = ["snapshot", "delete"].into_iter().chain(ids);
            self.cloud.run(order.chain(["--wait", "--timeout", "120"]))?;
        }
        self.cloud.on_host("lab-1", &format!("rm -rf {}", self.copies)).map(drop)
    }
}
