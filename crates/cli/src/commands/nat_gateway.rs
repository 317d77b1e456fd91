//! `ecsctl nat-gateway`.

use super::{Context, pages};
use crate::{
    client::client_token,
    error::{Error, Result},
    output::table::{self, Row},
};
use api::v1::{
    CreateForwardEntryRequest, CreateNatGatewayRequest, CreateSnatEntryRequest,
    DeleteForwardEntryRequest, DeleteNatGatewayRequest, DeleteSnatEntryRequest,
    DescribeForwardTableEntriesRequest, DescribeNatGatewaysRequest,
    DescribeSnatTableEntriesRequest, ForwardTableEntry, ModifyForwardEntryRequest,
    ModifyNatGatewayAttributeRequest, ModifySnatEntryRequest, NatGateway, SnatTableEntry,
};
use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum NatGatewayCommand {
    /// Creates an internet NAT gateway; everything out of the VPC goes to it
    #[command(after_help = "Example:\n  ecsctl nat-gateway create --vpc vpc-1 --vswitch vsw-1")]
    Create {
        #[arg(long)]
        vpc: String,
        /// It works in its zone
        #[arg(long)]
        vswitch: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
        /// Makes a repeated order the same order
        #[arg(long)]
        client_token: Option<String>,
    },
    /// Lists NAT gateways
    #[command(after_help = "Example:\n  ecsctl nat-gateway list --vpc vpc-1")]
    List {
        /// Id; left out: all
        #[arg(default_value = "", hide_default_value = true)]
        id: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        vpc: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
    },
    /// Changes a NAT gateway's name or description
    #[command(after_help = "Example:\n  ecsctl nat-gateway modify ngw-1 --name out")]
    Modify {
        id: String,
        #[arg(long)]
        name: Option<String>,
        #[arg(long)]
        description: Option<String>,
    },
    /// Deletes a NAT gateway
    #[command(after_help = "Example:\n  ecsctl nat-gateway delete ngw-1 --force")]
    Delete {
        id: String,
        /// With its entries; its EIPs are unassociated
        #[arg(long)]
        force: bool,
    },
    /// Lists SNAT entries
    #[command(after_help = "Example:\n  ecsctl nat-gateway snat ngw-1")]
    Snat { id: String },
    /// Lets a VSwitch or a range out by public addresses of the gateway
    #[command(after_help = "Examples:\n  \
        ecsctl nat-gateway add-snat ngw-1 --vswitch vsw-1 --address 203.0.113.9\n  \
        ecsctl nat-gateway add-snat ngw-1 --cidr 172.16.2.0/25 --address 203.0.113.9,203.0.113.10")]
    AddSnat {
        id: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        vswitch: String,
        #[arg(long, conflicts_with = "vswitch", default_value = "", hide_default_value = true)]
        cidr: String,
        /// EIPs of the gateway, with commas
        #[arg(long)]
        address: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        /// Makes a repeated order the same order
        #[arg(long)]
        client_token: Option<String>,
    },
    /// Changes the addresses or the name of an SNAT entry
    #[command(
        after_help = "Example:\n  ecsctl nat-gateway change-snat ngw-1 snat-1 --address 203.0.113.10"
    )]
    ChangeSnat {
        id: String,
        entry: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        address: String,
        #[arg(long)]
        name: Option<String>,
    },
    /// Removes an SNAT entry
    #[command(after_help = "Example:\n  ecsctl nat-gateway remove-snat ngw-1 snat-1")]
    RemoveSnat { id: String, entry: String },
    /// Lists DNAT entries
    #[command(after_help = "Example:\n  ecsctl nat-gateway dnat ngw-1")]
    Dnat { id: String },
    /// Leads ports of a public address of the gateway inside
    #[command(after_help = "Examples:\n  \
        ecsctl nat-gateway add-dnat ngw-1 --external 203.0.113.9:80 --internal 172.16.1.7:8080\n  \
        ecsctl nat-gateway add-dnat ngw-1 --external 203.0.113.9:any --internal 172.16.1.7:any \
        --protocol any")]
    AddDnat {
        id: String,
        /// ADDRESS:PORT, ADDRESS:FROM/TO or ADDRESS:any
        #[arg(long, value_parser = endpoint)]
        external: Endpoint,
        /// The same
        #[arg(long, value_parser = endpoint)]
        internal: Endpoint,
        /// tcp, udp or any
        #[arg(long, default_value = "tcp")]
        protocol: String,
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        /// Makes a repeated order the same order
        #[arg(long)]
        client_token: Option<String>,
    },
    /// Changes a DNAT entry
    #[command(
        after_help = "Example:\n  ecsctl nat-gateway change-dnat ngw-1 fwd-1 --internal 172.16.1.8:8080"
    )]
    ChangeDnat {
        id: String,
        entry: String,
        #[command(flatten)]
        change: ForwardChange,
    },
    /// Removes a DNAT entry
    #[command(after_help = "Example:\n  ecsctl nat-gateway remove-dnat ngw-1 fwd-1")]
    RemoveDnat { id: String, entry: String },
}

#[derive(Debug, Args)]
pub(crate) struct ForwardChange {
    /// ADDRESS:PORT, ADDRESS:FROM/TO or ADDRESS:any
    #[arg(long, value_parser = endpoint)]
    external: Option<Endpoint>,
    /// The same
    #[arg(long, value_parser = endpoint)]
    internal: Option<Endpoint>,
    /// tcp, udp or any
    #[arg(long, default_value = "", hide_default_value = true)]
    protocol: String,
    #[arg(long)]
    name: Option<String>,
}

/// An address and its ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Endpoint {
    address: String,
    ports: String,
}

fn endpoint(text: &str) -> std::result::Result<Endpoint, String> {
    let (address, ports) = text.split_once(':').ok_or("it is ADDRESS:PORT")?;
    Ok(Endpoint { address: address.to_owned(), ports: ports.to_owned() })
}

impl Row for NatGateway {
    const COLUMNS: &'static [&'static str] = &[
        "ID",
        "NAME",
        "VPC",
        "VSWITCH",
        "STATUS",
        "ADDRESSES",
        "HOST",
        "ZONE",
        "CREATED",
        "REASON",
    ];
    const WIDE: usize = 3;
    fn id(&self) -> String {
        self.nat_gateway_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        let addresses: Vec<&str> = self.ip_lists.iter().map(|ip| ip.ip_address.as_str()).collect();
        vec![
            self.nat_gateway_id.clone(),
            self.name.clone(),
            self.vpc_id.clone(),
            self.v_switch_id.clone(),
            self.status.clone(),
            addresses.join(" "),
            self.host_id.clone(),
            self.zone_id.clone(),
            self.creation_time.clone(),
            self.status_reason.clone(),
        ]
    }
}

impl Row for SnatTableEntry {
    const COLUMNS: &'static [&'static str] = &["ENTRY", "NAME", "SOURCE", "VSWITCH", "LEAVES AS"];
    fn id(&self) -> String {
        self.snat_entry_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.snat_entry_id.clone(),
            self.snat_entry_name.clone(),
            self.source_cidr.clone(),
            self.source_v_switch_id.clone(),
            self.snat_ip.clone(),
        ]
    }
}

impl Row for ForwardTableEntry {
    const COLUMNS: &'static [&'static str] = &["ENTRY", "NAME", "PROTOCOL", "EXTERNAL", "INTERNAL"];
    fn id(&self) -> String {
        self.forward_entry_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.forward_entry_id.clone(),
            self.forward_entry_name.clone(),
            self.ip_protocol.clone(),
            format!("{}:{}", self.external_ip, self.external_port),
            format!("{}:{}", self.internal_ip, self.internal_port),
        ]
    }
}

/// The gateway's SNAT and DNAT tables.
async fn tables(context: &Context, id: &str) -> Result<(String, String)> {
    let request = DescribeNatGatewaysRequest {
        region_id: context.region.clone(),
        nat_gateway_id: id.to_owned(),
        ..Default::default()
    };
    let answer = context.cloud.nat_gateways().describe_nat_gateways(request).await?.into_inner();
    let gateway = answer.nat_gateways.into_iter().next().ok_or_else(|| {
        Error::NotFound(format!("NAT gateway {id} does not exist; `ecsctl nat-gateway list`"))
    })?;
    let first = |ids: Vec<String>| ids.into_iter().next().unwrap_or_default();
    Ok((first(gateway.snat_table_ids), first(gateway.forward_table_ids)))
}

pub(crate) async fn run(context: &Context, command: NatGatewayCommand) -> Result<()> {
    let mut service = context.cloud.nat_gateways();
    let region_id = context.region.clone();
    match command {
        NatGatewayCommand::Create { vpc, vswitch, name, description, client_token: token } => {
            let request = CreateNatGatewayRequest {
                region_id,
                vpc_id: vpc,
                v_switch_id: vswitch,
                name,
                description,
                client_token: client_token(token),
                ..Default::default()
            };
            let answer = service.create_nat_gateway(request).await?.into_inner();
            let id = answer.nat_gateway_id.clone();
            context.done(&answer, std::slice::from_ref(&id), &format!("NAT gateway {id} created"));
        }
        NatGatewayCommand::List { id, vpc, name } => {
            let gateways = pages::all(async |page_number| {
                let request = DescribeNatGatewaysRequest {
                    region_id: region_id.clone(),
                    nat_gateway_id: id.clone(),
                    vpc_id: vpc.clone(),
                    name: name.clone(),
                    page_number,
                    page_size: pages::PAGE_SIZE,
                    ..Default::default()
                };
                let answer = service.describe_nat_gateways(request).await?.into_inner();
                Ok((answer.nat_gateways, answer.total_count))
            })
            .await?;
            table::print(context.format, &gateways);
        }
        NatGatewayCommand::Modify { id, name, description } => {
            let request = ModifyNatGatewayAttributeRequest {
                region_id,
                nat_gateway_id: id.clone(),
                name,
                description,
            };
            let answer = service.modify_nat_gateway_attribute(request).await?.into_inner();
            context.done(&answer, std::slice::from_ref(&id), &format!("NAT gateway {id} changed"));
        }
        NatGatewayCommand::Delete { id, force } => {
            let request = DeleteNatGatewayRequest { region_id, nat_gateway_id: id.clone(), force };
            let answer = service.delete_nat_gateway(request).await?.into_inner();
            context.done(&answer, std::slice::from_ref(&id), &format!("NAT gateway {id} deleted"));
        }
        NatGatewayCommand::Snat { id } => {
            let entries = pages::all(async |page_number| {
                let request = DescribeSnatTableEntriesRequest {
                    region_id: region_id.clone(),
                    nat_gateway_id: id.clone(),
                    page_number,
                    page_size: pages::PAGE_SIZE,
                    ..Default::default()
                };
                let answer = service.describe_snat_table_entries(request).await?.into_inner();
                Ok((answer.snat_table_entries, answer.total_count))
            })
            .await?;
            table::print(context.format, &entries);
        }
        NatGatewayCommand::AddSnat { id, vswitch, cidr, address, name, client_token: token } => {
            let request = CreateSnatEntryRequest {
                region_id,
                snat_table_id: tables(context, &id).await?.0,
                source_v_switch_id: vswitch,
                source_cidr: cidr,
                snat_ip: address,
                snat_entry_name: name,
                client_token: client_token(token),
            };
            let answer = service.create_snat_entry(request).await?.into_inner();
            let entry = answer.snat_entry_id.clone();
            let sentence = format!("SNAT entry {entry} created");
            context.done(&answer, &[entry], &sentence);
        }
        NatGatewayCommand::ChangeSnat { id, entry, address, name } => {
            let request = ModifySnatEntryRequest {
                region_id,
                snat_table_id: tables(context, &id).await?.0,
                snat_entry_id: entry.clone(),
                snat_ip: address,
                snat_entry_name: name,
            };
            let answer = service.modify_snat_entry(request).await?.into_inner();
            let sentence = format!("SNAT entry {entry} changed");
            context.done(&answer, &[entry], &sentence);
        }
        NatGatewayCommand::RemoveSnat { id, entry } => {
            let request = DeleteSnatEntryRequest {
                region_id,
                snat_table_id: tables(context, &id).await?.0,
                snat_entry_id: entry.clone(),
            };
            let answer = service.delete_snat_entry(request).await?.into_inner();
            let sentence = format!("SNAT entry {entry} removed");
            context.done(&answer, &[entry], &sentence);
        }
        NatGatewayCommand::Dnat { id } => {
            let entries = pages::all(async |page_number| {
                let request = DescribeForwardTableEntriesRequest {
                    region_id: region_id.clone(),
                    nat_gateway_id: id.clone(),
                    page_number,
                    page_size: pages::PAGE_SIZE,
                    ..Default::default()
                };
                let answer = service.describe_forward_table_entries(request).await?.into_inner();
                Ok((answer.forward_table_entries, answer.total_count))
            })
            .await?;
            table::print(context.format, &entries);
        }
        NatGatewayCommand::AddDnat {
            id,
            external,
            internal,
            protocol,
            name,
            client_token: token,
        } => {
            let request = CreateForwardEntryRequest {
                region_id,
                forward_table_id: tables(context, &id).await?.1,
                external_ip: external.address,
                external_port: external.ports,
                internal_ip: internal.address,
                internal_port: internal.ports,
                ip_protocol: protocol,
                forward_entry_name: name,
                client_token: client_token(token),
            };
            let answer = service.create_forward_entry(request).await?.into_inner();
            let entry = answer.forward_entry_id.clone();
            let sentence = format!("DNAT entry {entry} created");
            context.done(&answer, &[entry], &sentence);
        }
        NatGatewayCommand::ChangeDnat { id, entry, change } => {
            let (external, internal) =
                (change.external.unwrap_or_default(), change.internal.unwrap_or_default());
            let request = ModifyForwardEntryRequest {
                region_id,
                forward_table_id: tables(context, &id).await?.1,
                forward_entry_id: entry.clone(),
                external_ip: external.address,
                external_port: external.ports,
                internal_ip: internal.address,
                internal_port: internal.ports,
                ip_protocol: change.protocol,
                forward_entry_name: change.name,
            };
            let answer = service.modify_forward_entry(request).await?.into_inner();
            let sentence = format!("DNAT entry {entry} changed");
            context.done(&answer, &[entry], &sentence);
        }
        NatGatewayCommand::RemoveDnat { id, entry } => {
            let request = DeleteForwardEntryRequest {
                region_id,
                forward_table_id: tables(context, &id).await?.1,
                forward_entry_id: entry.clone(),
            };
            let answer = service.delete_forward_entry(request).await?.into_inner();
            let sentence = format!("DNAT entry {entry} removed");
            context.done(&answer, &[entry], &sentence);
        }
    }
    Ok(())
}
