//! Changing what can be changed of an instance that is there.

use super::{Context, create::user_data};
use crate::error::Result;
use api::v1::ModifyInstanceAttributeRequest;
use clap::{ArgGroup, Args};
use std::path::PathBuf;

pub(super) const EXAMPLES: &str = "Examples:
  ecsctl instance modify i-1 --deletion-protection false
  ecsctl instance modify i-1 --name web --description 'in front'
  ecsctl instance modify i-1 --security-group sg-1 --security-group sg-2";

#[derive(Debug, Args)]
#[command(group = ArgGroup::new("attribute").required(true).multiple(true).args([
    "name", "description", "deletion_protection", "host_name", "user_data", "security_groups",
]))]
pub(crate) struct ModifyArguments {
    id: String,
    #[arg(long)]
    name: Option<String>,
    /// Empty: none
    #[arg(long)]
    description: Option<String>,
    /// While true, deleting is refused
    #[arg(long, value_name = "true|false")]
    deletion_protection: Option<bool>,
    /// The guest sees it when it starts; not while Pending or Starting
    #[arg(long)]
    host_name: Option<String>,
    /// File with user data, - for standard input; only while Stopped
    #[arg(long)]
    user_data: Option<PathBuf>,
    /// Every security group it is to be in; several for more
    #[arg(long = "security-group")]
    security_groups: Vec<String>,
}

impl ModifyArguments {
    fn request(self) -> Result<ModifyInstanceAttributeRequest> {
        Ok(ModifyInstanceAttributeRequest {
            instance_id: self.id,
            instance_name: self.name,
            description: self.description,
            deletion_protection: self.deletion_protection,
            host_name: self.host_name,
            user_data: match self.user_data {
                None => None,
                path => Some(user_data(path.as_deref())?),
            },
            security_group_ids: self.security_groups,
        })
    }
}

pub(super) async fn modify(context: &Context, arguments: ModifyArguments) -> Result<()> {
    let request = arguments.request()?;
    let ids = [request.instance_id.clone()];
    let answer = context.cloud.instances().modify_instance_attribute(request).await?.into_inner();
    context.done(&answer, &ids, &format!("instance {} modified", ids[0]));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        arguments: ModifyArguments,
    }

    fn request(arguments: &[&str]) -> Result<ModifyInstanceAttributeRequest, clap::Error> {
        let arguments = ["modify", "i-1"].iter().chain(arguments);
        Command::try_parse_from(arguments).map(|command| command.arguments.request().unwrap())
    }

    #[test]
    fn only_what_is_given_is_changed() {
        let request_of = |arguments: &[&str]| request(arguments).unwrap();
        let lifted = request_of(&["--deletion-protection", "false"]);
        let expected = ModifyInstanceAttributeRequest {
            instance_id: "i-1".to_owned(),
            deletion_protection: Some(false),
            ..Default::default()
        };
        assert_eq!(lifted, expected);
        let emptied = request_of(&["--description", "", "--user-data", "/dev/null"]);
        assert_eq!(emptied.description.as_deref(), Some(""));
        assert_eq!(emptied.user_data.as_deref(), Some(""));
        assert_eq!(emptied.instance_name, None);
        assert!(request(&[]).is_err(), "nothing to change");
    }
}
