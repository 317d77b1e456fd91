//! New instances.

use super::{
    Context,
    wait::{self, Goal, WaitArguments},
};
use crate::{
    client::client_token,
    error::{Error, Result},
};
use api::v1::{
    CreateInstanceRequest, DataDisk, InstanceNetworkInterfaceOrder, RunInstancesRequest,
    SystemDisk, Tag,
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use clap::Args;
use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

pub(super) const RUN_EXAMPLES: &str = "Examples:
  ecsctl instance run --image m-1 --type ecs.c7.large --vswitch vsw-1 --security-group sg-1 \\
      --key-pair demo --user-data cloud-config.yaml --wait
  ecsctl instance run --image-family web ...
  ecsctl instance run ... --amount 3 --name web --unique-suffix
  ecsctl instance run ... --system-disk size=60,performance-level=PL2 --data-disk size=100
  ecsctl instance run ... --eni vswitch=vsw-2,security-group=sg-2,keep=true --eni id=eni-1";

#[derive(Debug, Args)]
pub(crate) struct RunArguments {
    #[command(flatten)]
    instance: InstanceArguments,
    /// How many
    #[arg(long, default_value_t = 1)]
    amount: u32,
    /// Create fewer if there is no room for all, but at least this many
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    min_amount: u32,
    /// Number the names: web001, web002, ...
    #[arg(long)]
    unique_suffix: bool,
    #[command(flatten)]
    wait: WaitArguments,
}

#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    #[command(flatten)]
    instance: InstanceArguments,
    #[command(flatten)]
    wait: WaitArguments,
}

#[derive(Debug, Args)]
struct InstanceArguments {
    #[arg(
        long,
        required_unless_present = "image_family",
        default_value = "",
        hide_default_value = true
    )]
    image: String,
    /// Instead of --image: the newest image of this family
    #[arg(long, conflicts_with = "image", default_value = "", hide_default_value = true)]
    image_family: String,
    /// Instance type, e.g. ecs.c7.large
    #[arg(long = "type")]
    instance_type: String,
    #[arg(long)]
    vswitch: String,
    /// Security group; several for more
    #[arg(long = "security-group", required = true)]
    security_groups: Vec<String>,
    #[arg(long, default_value = "", hide_default_value = true)]
    key_pair: String,
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    #[arg(long, default_value = "", hide_default_value = true)]
    host_name: String,
    #[arg(long, default_value = "", hide_default_value = true)]
    description: String,
    /// File with user data, for cloud-init; - for standard input
    #[arg(long)]
    user_data: Option<PathBuf>,
    /// category=,size=GiB,performance-level=,name=,provisioned-iops=,bursting=true,pool=ID or name,
    /// encrypted=true,kms-key-id=
    #[arg(long, value_parser = disk, default_value = "", hide_default_value = true)]
    system_disk: DiskText,
    /// As --system-disk, and keep=true to outlive the instance, snapshot=s-1 for its content; several
    /// for more
    #[arg(long = "data-disk", value_parser = disk)]
    data_disks: Vec<DiskText>,
    /// Private address; default: a free one
    #[arg(long, default_value = "", hide_default_value = true)]
    address: String,
    /// An IPv6 address of the primary interface, for one instance; several for more
    #[arg(long = "ipv6", conflicts_with = "ipv6_count")]
    ipv6: Vec<String>,
    /// So many free IPv6 addresses
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    ipv6_count: u32,
    /// Mbit/s of a static public address, which `instance run` gives and `instance
    /// allocate-public-ip` later; default: none
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    public_bandwidth: u32,
    /// A secondary network interface: id=eni-1 for one there is, or for a new one
    /// vswitch=,security-group=,address=,more-addresses=,ipv6=,ipv6-count=,name=,queues= (default: as the primary
    /// one's), and keep=true to outlive the instance; several for more
    #[arg(long = "eni", value_parser = interface)]
    interfaces: Vec<InstanceNetworkInterfaceOrder>,
    /// Metadata only with a token
    #[arg(long)]
    require_metadata_token: bool,
    /// No metadata at all
    #[arg(long)]
    no_metadata: bool,
    /// KEY=VALUE; several for more
    #[arg(long = "tag", value_parser = crate::commands::tag)]
    tags: Vec<Tag>,
    /// Refuse to delete it until this is taken off
    #[arg(long)]
    deletion_protection: bool,
    /// Makes a repeated order the same order
    #[arg(long)]
    client_token: Option<String>,
    /// Only check the order
    #[arg(long)]
    dry_run: bool,
}

/// A disk as named on the command line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct DiskText {
    category: String,
    size: u32,
    performance_level: String,
    name: String,
    keep: bool,
    snapshot: String,
    provisioned_iops: u64,
    bursting: bool,
    pool: String,
    encrypted: bool,
    kms_key_id: String,
}

fn disk(text: &str) -> Result<DiskText, String> {
    let mut disk = DiskText::default();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (key, value) =
            part.split_once('=').ok_or_else(|| format!("{part} is not of the form KEY=VALUE"))?;
        match key {
            "category" => value.clone_into(&mut disk.category),
            "size" => {
                disk.size =
                    value.parse().map_err(|_| format!("size={value} is not a number of GiB"))?;
            }
            "performance-level" => value.clone_into(&mut disk.performance_level),
            "name" => value.clone_into(&mut disk.name),
            "snapshot" => value.clone_into(&mut disk.snapshot),
            "pool" => value.clone_into(&mut disk.pool),
            "keep" => {
                disk.keep = value.parse().map_err(|_| "keep is true or false".to_owned())?;
            }
            "provisioned-iops" => {
                disk.provisioned_iops = value
                    .parse()
                    .map_err(|_| format!("provisioned-iops={value} is not a number"))?;
            }
            "bursting" => {
                disk.bursting =
                    value.parse().map_err(|_| "bursting is true or false".to_owned())?;
            }
            "encrypted" => {
                disk.encrypted =
                    value.parse().map_err(|_| "encrypted is true or false".to_owned())?;
            }
            "kms-key-id" => value.clone_into(&mut disk.kms_key_id),
            _ => {
                return Err(format!(
                    "{key} is none of category, size, performance-level, name, keep, snapshot, pool, \
                     provisioned-iops, bursting, encrypted, kms-key-id"
                ));
            }
        }
    }
    Ok(disk)
}

/// A secondary network interface as named on the command line.
fn interface(text: &str) -> Result<InstanceNetworkInterfaceOrder, String> {
    let mut order = InstanceNetworkInterfaceOrder::default();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (key, value) =
            part.split_once('=').ok_or_else(|| format!("{part} is not of the form KEY=VALUE"))?;
        let number = || value.parse::<u32>().map_err(|_| format!("{key}={value} is not a number"));
        match key {
            "id" => value.clone_into(&mut order.network_interface_id),
            "vswitch" => value.clone_into(&mut order.v_switch_id),
            "security-group" => order.security_group_ids.push(value.to_owned()),
            "address" => value.clone_into(&mut order.primary_ip_address),
            "more-addresses" => order.secondary_private_ip_address_count = number()?,
            "ipv6" => order.ipv6_address.push(value.to_owned()),
            "ipv6-count" => order.ipv6_address_count = number()?,
            "name" => value.clone_into(&mut order.network_interface_name),
            "queues" => order.queue_number = number()?,
            "keep" => {
                let keep: bool = value.parse().map_err(|_| "keep is true or false".to_owned())?;
                order.delete_on_release = Some(!keep);
            }
            _ => {
                return Err(format!(
                    "{key} is none of id, vswitch, security-group, address, more-addresses, ipv6, \
                     ipv6-count, name, queues, keep"
                ));
            }
        }
    }
    Ok(order)
}

pub(super) fn user_data(path: Option<&Path>) -> Result<String> {
    let Some(path) = path else { return Ok(String::new()) };
    let mut bytes = Vec::new();
    if path == Path::new("-") {
        std::io::stdin()
            .read_to_end(&mut bytes)
            .map_err(Error::io("cannot read standard input"))?;
    } else {
        bytes = fs::read(path).map_err(Error::file("read", path))?;
    }
    Ok(STANDARD.encode(bytes))
}

impl InstanceArguments {
    fn metadata_options(&self) -> (String, String) {
        let pick = |on: bool, word: &str| if on { word.to_owned() } else { String::new() };
        (pick(self.no_metadata, "disabled"), pick(self.require_metadata_token, "required"))
    }

    fn disks(&self) -> (SystemDisk, Vec<DataDisk>) {
        let system = self.system_disk.clone();
        let system = SystemDisk {
            category: system.category,
            size: system.size,
            performance_level: system.performance_level,
            disk_name: system.name,
            provisioned_iops: system.provisioned_iops,
            bursting_enabled: system.bursting,
            storage_pool_id: system.pool,
            encrypted: system.encrypted,
            kms_key_id: system.kms_key_id,
            description: String::new(),
        };
        let data = self.data_disks.iter().cloned().map(|disk| DataDisk {
            category: disk.category,
            size: disk.size,
            performance_level: disk.performance_level,
            disk_name: disk.name,
            delete_with_instance: disk.keep.then_some(false),
            snapshot_id: disk.snapshot,
            provisioned_iops: disk.provisioned_iops,
            bursting_enabled: disk.bursting,
            storage_pool_id: disk.pool,
            encrypted: disk.encrypted,
            kms_key_id: disk.kms_key_id,
            ..Default::default()
        });
        (system, data.collect())
    }
}

pub(super) async fn run(context: &Context, arguments: RunArguments) -> Result<()> {
    let instance = arguments.instance;
    let (http_endpoint, http_tokens) = instance.metadata_options();
    let (system_disk, data_disk) = instance.disks();
    let dry_run = instance.dry_run;
    let token = client_token(instance.client_token);
    let request = RunInstancesRequest {
        region_id: context.region.clone(),
        security_group_id: match instance.security_groups.as_slice() {
            [one] => one.clone(),
            _ => String::new(),
        },
        security_group_ids: match instance.security_groups.as_slice() {
            [_] => Vec::new(),
            several => several.to_vec(),
        },
        image_id: instance.image,
        image_family: instance.image_family,
        instance_type: instance.instance_type,
        v_switch_id: instance.vswitch,
        instance_name: instance.name,
        description: instance.description,
        host_name: instance.host_name,
        key_pair_name: instance.key_pair,
        user_data: user_data(instance.user_data.as_deref())?,
        system_disk: Some(system_disk),
        data_disk,
        amount: arguments.amount,
        min_amount: arguments.min_amount,
        client_token: token.clone(),
        dry_run,
        private_ip_address: instance.address,
        ipv6_address: instance.ipv6,
        ipv6_address_count: instance.ipv6_count,
        http_endpoint,
        http_tokens,
        tag: instance.tags,
        deletion_protection: instance.deletion_protection,
        internet_max_bandwidth_out: instance.public_bandwidth,
        unique_suffix: arguments.unique_suffix,
        network_interface: instance.interfaces,
        ..Default::default()
    };
    let answer = context.cloud.instances().run_instances(request).await;
    let answer = answer.map_err(|status| unknown_outcome(status, &token))?.into_inner();
    let ids = answer.instance_id_sets.clone();
    wait::until(context, &ids, Goal::Running, &arguments.wait)
        .await
        .map_err(|error| error.ordered(created(&ids, &token)))?;
    let sentence = arguments.wait.sentence(&ids, "created, starting", Goal::Running);
    context.done(&answer, &ids, &sentence);
    Ok(())
}

/// Without an answer nobody knows whether an order was carried out; its token finds out.
fn unknown_outcome(status: tonic::Status, token: &str) -> Error {
    let error = Error::from(status);
    if !error.is_transient() {
        return error;
    }
    error.ordered(format!(
        "the order may have been carried out; give it again with --client-token {token}, which \
         gives the same instances and no second ones"
    ))
}

fn created(ids: &[String], token: &str) -> String {
    format!(
        "created all the same: {}, client token {token}; `ecsctl instance delete --force` undoes it",
        ids.join(", ")
    )
}

pub(super) async fn create(context: &Context, arguments: CreateArguments) -> Result<()> {
    let instance = arguments.instance;
    let (http_endpoint, http_tokens) = instance.metadata_options();
    let (system_disk, data_disk) = instance.disks();
    let token = client_token(instance.client_token);
    let [security_group_id] = <[String; 1]>::try_from(instance.security_groups).map_err(|_| {
        Error::Local(
            "`instance create` takes one --security-group; `instance run` takes several".to_owned(),
        )
    })?;
    let request = CreateInstanceRequest {
        region_id: context.region.clone(),
        image_id: instance.image,
        image_family: instance.image_family,
        instance_type: instance.instance_type,
        security_group_id,
        v_switch_id: instance.vswitch,
        instance_name: instance.name,
        description: instance.description,
        host_name: instance.host_name,
        key_pair_name: instance.key_pair,
        user_data: user_data(instance.user_data.as_deref())?,
        system_disk: Some(system_disk),
        data_disk,
        client_token: token.clone(),
        dry_run: instance.dry_run,
        private_ip_address: instance.address,
        ipv6_address: instance.ipv6,
        ipv6_address_count: instance.ipv6_count,
        zone_id: String::new(),
        http_endpoint,
        http_tokens,
        tag: instance.tags,
        deletion_protection: instance.deletion_protection,
        network_interface: instance.interfaces,
        internet_max_bandwidth_out: instance.public_bandwidth,
        ..Default::default()
    };
    let answer = context.cloud.instances().create_instance(request).await;
    let answer = answer.map_err(|status| unknown_outcome(status, &token))?.into_inner();
    let ids = [answer.instance_id.clone()];
    wait::until(context, &ids, Goal::Stopped, &arguments.wait)
        .await
        .map_err(|error| error.ordered(created(&ids, &token)))?;
    context.done(&answer, &ids, &arguments.wait.sentence(&ids, "created", Goal::Stopped));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_read_from_its_text_and_a_wrong_key_is_named() {
        let disk =
            super::disk("size=40,category=cloud_essd,performance-level=PL1,keep=true").unwrap();
        assert_eq!((disk.size, disk.category.as_str(), disk.keep), (40, "cloud_essd", true));
        assert_eq!(super::disk("").unwrap(), DiskText::default());
        let disk = super::disk("category=cloud_auto,provisioned-iops=50,bursting=true").unwrap();
        assert_eq!((disk.provisioned_iops, disk.bursting), (50, true));
        assert!(super::disk("sise=40").unwrap_err().contains("sise"));
        assert!(super::disk("size=big").unwrap_err().contains("GiB"));
    }

    #[test]
    fn an_interface_is_read_from_its_text() {
        let new = interface("vswitch=vsw-1,security-group=sg-1,security-group=sg-2,keep=true");
        let new = new.unwrap();
        assert_eq!((new.v_switch_id.as_str(), new.delete_on_release), ("vsw-1", Some(false)));
        assert_eq!(new.security_group_ids, ["sg-1", "sg-2"]);
        assert_eq!(interface("id=eni-1").unwrap().network_interface_id, "eni-1");
        assert!(interface("queues=many").unwrap_err().contains("queues"));
        assert!(interface("ip=1").unwrap_err().contains("more-addresses"));
    }

    #[test]
    fn an_order_without_an_answer_names_its_token_and_a_refused_one_does_not() {
        let lost = unknown_outcome(tonic::Status::unavailable("away"), "t-1").report();
        assert!(lost.contains("--client-token t-1"), "{lost}");
        let status =
            api::error::status(tonic::Code::NotFound, "InvalidImageId.NotFound", "no", "r");
        assert!(!unknown_outcome(status, "t-1").report().contains("t-1"));
        assert!(created(&["i-1".to_owned()], "t-1").contains("i-1, client token t-1"));
    }

    #[test]
    fn user_data_is_sent_in_base64() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "#cloud-config\n").unwrap();
        assert_eq!(user_data(Some(file.path())).unwrap(), "I2Nsb3VkLWNvbmZpZwo=");
        assert_eq!(user_data(None).unwrap(), "");
    }
}
