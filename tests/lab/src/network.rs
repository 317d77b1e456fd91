//! A VPC with a VSwitch, a security group and a key pair, for one test.

use crate::Cloud;
use anyhow::Result;
use std::{cell::Cell, path::PathBuf};
use tempfile::TempDir;

/// Deleted, with every instance in it, when dropped.
#[derive(Debug)]
pub struct Network {
    cloud: Cloud,
    name: String,
    /// Id of the VPC.
    pub vpc: String,
    /// Id of the VSwitch.
    pub vswitch: String,
    /// Id of the security group, which lets nothing in.
    pub group: String,
    folder: TempDir,
    deleted: Cell<bool>,
}

impl Network {
    /// Makes one.
    ///
    /// # Errors
    /// When the cloud refuses any part.
    pub fn new(cloud: &Cloud, name: &str) -> Result<Self> {
        let vpc = cloud.id(["vpc", "create", "--name", name, "--cidr", "10.20.0.0/16"])?;
        let vswitch = cloud.id([
            "vswitch",
            "create",
            "--vpc",
            &vpc,
            "--name",
            name,
            "--cidr",
            "10.20.1.0/24",
        ])?;
        let group = cloud.id(["security-group", "create", "--vpc", &vpc, "--name", name])?;
        let folder = tempfile::tempdir()?;
        let network = Self {
            cloud: cloud.clone(),
            name: name.to_owned(),
            vpc,
            vswitch,
            group,
            folder,
            deleted: Cell::new(false),
        };
        let key = network.key();
        cloud.id(["key-pair", "create", name, "--file", &key.display().to_string()])?;
        Ok(network)
    }

    /// The private key's file.
    pub fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// The command line of a new instance here; more may follow.
    pub fn run<'a>(&'a self, image: &'a str, instance_type: &'a str) -> Vec<&'a str> {
        vec![
            "instance",
            "run",
            "--image",
            image,
            "--type",
            instance_type,
            "--vswitch",
            &self.vswitch,
            "--security-group",
            &self.group,
            "--key-pair",
            &self.name,
        ]
    }

    /// Lets one TCP port in from everywhere.
    ///
    /// # Errors
    /// When the cloud refuses.
    pub fn allow(&self, port: u16) -> Result<()> {
        let range = format!("{port}/{port}");
        self.cloud
            .run([
                "security-group",
                "authorize",
                &self.group,
                "--port",
                &range,
                "--cidr",
                "0.0.0.0/0",
            ])
            .map(drop)
    }

    /// The ids of the instances here.
    ///
    /// # Errors
    /// When the cloud does not answer.
    pub fn instances(&self) -> Result<Vec<String>> {
        self.cloud.instances_of(&self.vpc)
    }

    /// Deletes everything here and its instances, and says what could not be.
    ///
    /// # Errors
    /// When something is left.
    pub fn delete(&self) -> Result<()> {
        self.cloud.delete_all(&self.instances()?)?;
        self.cloud.run(["security-group", "delete", &self.group])?;
        self.cloud.run(["vswitch", "delete", &self.vswitch])?;
        self.cloud.run(["vpc", "delete", &self.vpc])?;
        self.cloud.run(["key-pair", "delete", &self.name])?;
        self.deleted.set(true);
        Ok(())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // A test that failed half-way leaves room for the next one.
        if !self.deleted.get()
            && let Err(error) = self.delete()
        {
            eprintln!("not cleaned up: {error:#}");
        }
    }
}
