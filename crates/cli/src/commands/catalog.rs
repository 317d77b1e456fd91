//! `ecsctl instance-type`, `region` and `zone`.

use super::Context;
use crate::{
    error::{Error, Result},
    output::table::{self, Row},
};
use api::v1::{
    DescribeInstanceTypeFamiliesRequest, DescribeInstanceTypesRequest, DescribeRegionsRequest,
    DescribeZonesRequest, InstanceType, InstanceTypeFamily, Region, Zone,
};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum InstanceTypeCommand {
    /// Lists instance types
    #[command(after_help = "Examples:\n  ecsctl instance-type list --family ecs.c7\n  \
                            ecsctl instance-type list --available --max-memory 4")]
    List {
        /// Types; left out: all
        types: Vec<String>,
        #[arg(long, default_value = "", hide_default_value = true)]
        family: String,
        /// vCPUs at least
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        min_cpus: u32,
        /// vCPUs at most
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        max_cpus: u32,
        /// GiB at least
        #[arg(long, default_value_t = 0.0, hide_default_value = true)]
        min_memory: f64,
        /// GiB at most
        #[arg(long, default_value_t = 0.0, hide_default_value = true)]
        max_memory: f64,
        /// Only types that some host of this cloud can run
        #[arg(long)]
        available: bool,
    },
    /// Shows all of one type
    #[command(after_help = "Example:\n  ecsctl instance-type show ecs.c7.large")]
    Show { r#type: String },
    /// Lists instance families
    #[command(after_help = "Example:\n  ecsctl instance-type families --generation ecs-6")]
    Families {
        /// ecs-1 to ecs-8
        #[arg(long, default_value = "", hide_default_value = true)]
        generation: String,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum RegionCommand {
    /// Lists regions
    #[command(after_help = "Example:\n  ecsctl region list")]
    List,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ZoneCommand {
    /// Lists zones
    #[command(after_help = "Example:\n  ecsctl zone list -o name")]
    List,
}

impl Row for InstanceType {
    const COLUMNS: &'static [&'static str] = &[
        "TYPE",
        "VCPU",
        "GIB",
        "AVAILABLE",
        "LEVEL",
        "RX MBIT/S",
        "TX MBIT/S",
        "ENIS",
        "QUEUES",
        "DISKS",
        "DISK IOPS",
        "WHY NOT",
    ];
    const WIDE: usize = 5;
    fn id(&self) -> String {
        self.instance_type_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.instance_type_id.clone(),
            self.cpu_core_count.to_string(),
            self.memory_size.to_string(),
            if self.available { "yes" } else { "no" }.to_owned(),
            self.instance_family_level.clone(),
            (self.instance_bandwidth_rx / 1000).to_string(),
            (self.instance_bandwidth_tx / 1000).to_string(),
            self.eni_quantity.to_string(),
            self.nic_queues.to_string(),
            self.disk_quantity.to_string(),
            if self.disk_iops == 0 { String::new() } else { self.disk_iops.to_string() },
            self.unavailable_reason.clone(),
        ]
    }
}

impl Row for InstanceTypeFamily {
    const COLUMNS: &'static [&'static str] = &["FAMILY", "GENERATION", "CATEGORY"];
    fn id(&self) -> String {
        self.instance_type_family_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![self.instance_type_family_id.clone(), self.generation.clone(), self.category.clone()]
    }
}

impl Row for Region {
    const COLUMNS: &'static [&'static str] = &["REGION", "NAME", "STATUS", "ENDPOINT"];
    fn id(&self) -> String {
        self.region_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.region_id.clone(),
            self.local_name.clone(),
            self.status.clone(),
            self.region_endpoint.clone(),
        ]
    }
}

impl Row for Zone {
    const COLUMNS: &'static [&'static str] = &["ZONE", "NAME", "INSTANCE TYPES", "DISK CATEGORIES"];
    fn id(&self) -> String {
        self.zone_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.zone_id.clone(),
            self.local_name.clone(),
            self.available_instance_types.len().to_string(),
            self.available_disk_categories.join(" "),
        ]
    }
}

async fn types(
    context: &Context,
    mut request: DescribeInstanceTypesRequest,
) -> Result<Vec<InstanceType>> {
    let mut types = Vec::new();
    loop {
        let mut answer =
            context.cloud.catalog().describe_instance_types(request.clone()).await?.into_inner();
        types.append(&mut answer.instance_types);
        if answer.next_token.is_empty() {
            return Ok(types);
        }
        request.next_token = answer.next_token;
    }
}

pub(crate) async fn instance_type(context: &Context, command: InstanceTypeCommand) -> Result<()> {
    match command {
        InstanceTypeCommand::List {
            types: instance_types,
            family,
            min_cpus,
            max_cpus,
            min_memory,
            max_memory,
            available,
        } => {
            let request = DescribeInstanceTypesRequest {
                instance_types,
                instance_type_family: family,
                minimum_cpu_core_count: min_cpus,
                maximum_cpu_core_count: max_cpus,
                minimum_memory_size: min_memory,
                maximum_memory_size: max_memory,
                ..Default::default()
            };
            let mut found = types(context, request).await?;
            found.retain(|one| one.available || !available);
            table::print(context.format, &found);
        }
        InstanceTypeCommand::Show { r#type } => {
            let request = DescribeInstanceTypesRequest {
                instance_types: vec![r#type.clone()],
                ..Default::default()
            };
            let found = types(context, request).await?;
            let one = found.first().ok_or_else(|| {
                Error::NotFound(format!(
                    "there is no instance type {}; `ecsctl instance-type list` shows all",
                    r#type
                ))
            })?;
            table::print_one(context.format, one);
        }
        InstanceTypeCommand::Families { generation } => {
            let request = DescribeInstanceTypeFamiliesRequest {
                region_id: context.region.clone(),
                generation,
            };
            let answer = context
                .cloud
                .catalog()
                .describe_instance_type_families(request)
                .await?
                .into_inner();
            table::print(context.format, &answer.instance_type_families);
        }
    }
    Ok(())
}

pub(crate) async fn region(context: &Context, RegionCommand::List: RegionCommand) -> Result<()> {
    let answer = context.cloud.catalog().describe_regions(DescribeRegionsRequest {}).await?;
    table::print(context.format, &answer.into_inner().regions);
    Ok(())
}

async fn zones(context: &Context) -> Result<Vec<Zone>> {
    let request = DescribeZonesRequest { region_id: context.region.clone() };
    Ok(context.cloud.catalog().describe_zones(request).await?.into_inner().zones)
}

/// The zone for those who do not care.
pub(crate) async fn first_zone(context: &Context) -> Result<String> {
    zones(context)
        .await?
        .into_iter()
        .next()
        .map(|zone| zone.zone_id)
        .ok_or_else(|| Error::Failed("the cloud has no zone yet: no host has joined it".to_owned()))
}

pub(crate) async fn zone(context: &Context, ZoneCommand::List: ZoneCommand) -> Result<()> {
    table::print(context.format, &zones(context).await?);
    Ok(())
}
