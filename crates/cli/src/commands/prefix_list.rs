//! `ecsctl prefix-list`.

use super::Context;
use crate::{
    client::client_token,
    error::Result,
    output::table::{self, Row},
};
use api::v1::{
    CreatePrefixListRequest, DeletePrefixListRequest, DescribePrefixListAssociationsRequest,
    DescribePrefixListAttributesRequest, DescribePrefixListsRequest, ModifyPrefixListRequest,
    PrefixList, PrefixListAssociation, PrefixListEntry,
};
use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum PrefixListCommand {
    /// Creates a prefix list
    #[command(after_help = "Example:\n  ecsctl prefix-list create --name office --max-entries 10 \
        --entry 198.51.100.0/24=berlin --entry 203.0.113.0/24")]
    Create {
        #[arg(long)]
        name: String,
        /// Entries it may have, 1 to 200; a rule that names it counts as so many
        #[arg(long)]
        max_entries: u32,
        /// CIDR, or CIDR=DESCRIPTION; several for more
        #[arg(long = "entry", value_parser = entry)]
        entries: Vec<PrefixListEntry>,
        /// Of IPv6 blocks
        #[arg(long)]
        ipv6: bool,
        #[arg(long, default_value = "", hide_default_value = true)]
        description: String,
        /// Makes a repeated order the same order
        #[arg(long)]
        client_token: Option<String>,
    },
    /// Lists prefix lists
    #[command(after_help = "Example:\n  ecsctl prefix-list list")]
    List {
        /// Ids; left out: all
        ids: Vec<String>,
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
    },
    /// Shows a prefix list's entries
    #[command(after_help = "Example:\n  ecsctl prefix-list show pl-1")]
    Show { id: String },
    /// Lists the security groups whose rules name a prefix list
    #[command(after_help = "Example:\n  ecsctl prefix-list associations pl-1")]
    Associations { id: String },
    /// Changes a prefix list
    #[command(after_help = "Example:\n  ecsctl prefix-list modify pl-1 --add 192.0.2.0/24 \
        --remove 198.51.100.0/24")]
    Modify {
        id: String,
        #[arg(long)]
        name: Option<String>,
        #[arg(long)]
        description: Option<String>,
        /// CIDR, or CIDR=DESCRIPTION; several for more
        #[arg(long = "add", value_parser = entry)]
        add: Vec<PrefixListEntry>,
        /// CIDR; several for more
        #[arg(long = "remove", value_parser = entry)]
        remove: Vec<PrefixListEntry>,
    },
    /// Deletes a prefix list that no rule names
    #[command(after_help = "Example:\n  ecsctl prefix-list delete pl-1")]
    Delete { id: String },
}

fn entry(text: &str) -> std::result::Result<PrefixListEntry, String> {
    let (cidr, description) = text.split_once('=').unwrap_or((text, ""));
    Ok(PrefixListEntry { cidr: cidr.to_owned(), description: description.to_owned() })
}

impl Row for PrefixList {
    const COLUMNS: &'static [&'static str] =
        &["ID", "NAME", "FAMILY", "MAX ENTRIES", "ASSOCIATIONS", "CREATED", "DESCRIPTION"];
    const WIDE: usize = 2;
    fn id(&self) -> String {
        self.prefix_list_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.prefix_list_id.clone(),
            self.prefix_list_name.clone(),
            self.address_family.clone(),
            self.max_entries.to_string(),
            self.association_count.to_string(),
            self.creation_time.clone(),
            self.description.clone(),
        ]
    }
}

impl Row for PrefixListEntry {
    const COLUMNS: &'static [&'static str] = &["CIDR", "DESCRIPTION"];
    fn id(&self) -> String {
        self.cidr.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![self.cidr.clone(), self.description.clone()]
    }
}

impl Row for PrefixListAssociation {
    const COLUMNS: &'static [&'static str] = &["RESOURCE", "TYPE"];
    fn id(&self) -> String {
        self.resource_id.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![self.resource_id.clone(), self.resource_type.clone()]
    }
}

pub(crate) async fn run(context: &Context, command: PrefixListCommand) -> Result<()> {
    let mut service = context.cloud.prefix_lists();
    let region_id = context.region.clone();
    match command {
        PrefixListCommand::Create {
            name,
            max_entries,
            entries,
            ipv6,
            description,
            client_token: token,
        } => {
            let request = CreatePrefixListRequest {
                region_id,
                prefix_list_name: name,
                description,
                address_family: if ipv6 { "IPv6" } else { "IPv4" }.to_owned(),
                max_entries,
                entry: entries,
                client_token: client_token(token),
            };
            let answer = service.create_prefix_list(request).await?.into_inner();
            let id = answer.prefix_list_id.clone();
            context.done(&answer, std::slice::from_ref(&id), &format!("Prefix list {id} created"));
        }
        PrefixListCommand::List { ids, name } => {
            let mut lists = Vec::new();
            let mut next_token = String::new();
            loop {
                let request = DescribePrefixListsRequest {
                    region_id: region_id.clone(),
                    prefix_list_id: ids.clone(),
                    prefix_list_name: name.clone(),
                    next_token,
                    max_results: 100,
                    ..Default::default()
                };
                let answer = service.describe_prefix_lists(request).await?.into_inner();
                lists.extend(answer.prefix_lists);
                next_token = answer.next_token;
                if next_token.is_empty() {
                    break;
                }
            }
            table::print(context.format, &lists);
        }
        PrefixListCommand::Show { id } => {
            let request = DescribePrefixListAttributesRequest { region_id, prefix_list_id: id };
            let answer = service.describe_prefix_list_attributes(request).await?.into_inner();
            table::print(context.format, &answer.entries);
        }
        PrefixListCommand::Associations { id } => {
            let request = DescribePrefixListAssociationsRequest { region_id, prefix_list_id: id };
            let answer = service.describe_prefix_list_associations(request).await?.into_inner();
            table::print(context.format, &answer.prefix_list_associations);
        }
        PrefixListCommand::Modify { id, name, description, add, remove } => {
            let request = ModifyPrefixListRequest {
                region_id,
                prefix_list_id: id.clone(),
                prefix_list_name: name,
                description,
                add_entry: add,
                remove_entry: remove,
            };
            let answer = service.modify_prefix_list(request).await?.into_inner();
            context.done(&answer, std::slice::from_ref(&id), &format!("Prefix list {id} changed"));
        }
        PrefixListCommand::Delete { id } => {
            let request = DeletePrefixListRequest { region_id, prefix_list_id: id.clone() };
            let answer = service.delete_prefix_list(request).await?.into_inner();
            context.done(&answer, std::slice::from_ref(&id), &format!("Prefix list {id} deleted"));
        }
    }
    Ok(())
}
