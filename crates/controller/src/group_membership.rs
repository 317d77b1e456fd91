//! Which security groups a network interface may be in.

use crate::ecs_error::{group_not_found, refuse};
use std::collections::BTreeSet;
use store::{GroupUse, Refusal};

/// Groups of one interface.
const MOST_GROUPS: usize = 10;
/// Rules of one interface, of all its groups together.
pub(crate) const MOST_ENI_RULES: u64 = 1000;
/// Private addresses in a basic group, and in an advanced one.
const BASIC_MEMBERS: u64 = 2000;
const ADVANCED_MEMBERS: u64 = 65_536;

/// What an action calls the reasons.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Codes {
    other_vpc: (u16, &'static str),
    full: &'static str,
    too_many: (u16, &'static str),
}

/// `RunInstances`, `CreateInstance`.
pub(crate) const NEW_INSTANCE: Codes = Codes {
    other_vpc: (400, "InvalidParameter.Mismatch"),
    full: "SecurityGroupInstanceLimitExceed",
    too_many: (400, "JoinedGroupLimitExceed"),
};
/// Actions of network interfaces.
pub(crate) const ENI: Codes =
    Codes { other_vpc: (403, "InvalidOperation.VpcMismatch"), ..NEW_INSTANCE };
/// `JoinSecurityGroup` of an interface.
pub(crate) const JOIN_ENI: Codes = Codes {
    other_vpc: (403, "InvalidOperation.VpcMismatch"),
    full: "SecurityGroupInstanceLimitExceeded",
    too_many: (403, "InstanceSecurityGroupLimitExceeded"),
};
/// `JoinSecurityGroup` of an instance.
pub(crate) const JOIN_INSTANCE: Codes =
    Codes { other_vpc: (400, "InvalidInstanceId.Mismatch"), ..JOIN_ENI };

/// Private addresses that a group takes.
pub(crate) fn capacity(enterprise: bool) -> u64 {
    if enterprise { ADVANCED_MEMBERS } else { BASIC_MEMBERS }
}

/// The groups of a request, given as one or as several, each once.
///
/// # Errors
/// `InvalidParameter.Conflict` if both are given, and that of too many.
pub(crate) fn asked(one: &str, several: &[String], codes: &Codes) -> Result<Vec<String>, Refusal> {
    let mut group_ids = several.to_vec();
    if !one.is_empty() {
        if !group_ids.is_empty() {
            return Err(refuse(
                400,
                "InvalidParameter.Conflict",
                "give security_group_id or security_group_ids, not both",
            ));
        }
        group_ids.push(one.to_owned());
    }
    let mut seen = BTreeSet::new();
    group_ids.retain(|group_id| seen.insert(group_id.clone()));
    check_number(&group_ids, codes)?;
    Ok(group_ids)
}

fn check_number(group_ids: &[String], codes: &Codes) -> Result<(), Refusal> {
    if group_ids.len() <= MOST_GROUPS {
        return Ok(());
    }
    let (status, code) = codes.too_many;
    Err(refuse(
        status,
        code,
        format!(
            "{} security groups are too many; a network interface is in at most {MOST_GROUPS}",
            group_ids.len()
        ),
    ))
}

/// That an interface of the VPC may be in all of these groups. `joining` are the private addresses
/// that a group gets by it.
pub(crate) fn check(
    codes: &Codes,
    vpc_id: &str,
    group_ids: &[String],
    known: &[GroupUse],
    joining: impl Fn(&str) -> u64,
) -> Result<(), Refusal> {
    check_number(group_ids, codes)?;
    let (mut rules, mut kind) = (0, None);
    for group_id in group_ids {
        let found = known.iter().find(|known| known.group.group_id == *group_id);
        let GroupUse { group, addresses, rules: of_group } =
            found.ok_or_else(|| group_not_found(group_id))?;
        if group.vpc_id != vpc_id {
            let (status, code) = codes.other_vpc;
            return Err(refuse(
                status,
                code,
                format!(
                    "security group {group_id} is in VPC {}, the network interface in VPC {vpc_id}; \
                     use a group of the same VPC",
                    group.vpc_id
                ),
            ));
        }
        if *kind.get_or_insert(group.enterprise) != group.enterprise {
            return Err(refuse(
                403,
                "EnterpriseGroupLimited.MutliGroupType",
                "basic (normal) and advanced (enterprise) security groups cannot be mixed on one \
                 network interface; use groups of one type",
            ));
        }
        let (most, more) = (capacity(group.enterprise), joining(group_id));
        if more > 0 && addresses + more > most {
            return Err(refuse(
                403,
                codes.full,
                format!(
                    "security group {group_id} has {addresses} private addresses of at most {most} \
                     and would get {more} more; use another group"
                ),
            ));
        }
        rules += of_group;
    }
    if rules > MOST_ENI_RULES {
        return Err(refuse(
            403,
            "AclLimitExceed",
            format!(
                "the groups {} have {rules} rules together; a network interface has at most \
                 {MOST_ENI_RULES}: use fewer groups or revoke rules",
                group_ids.join(", ")
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use store::SecurityGroupRecord;

    fn group(id: &str, enterprise: bool, addresses: u64, rules: u64) -> GroupUse {
        let group = SecurityGroupRecord {
            group_id: id.to_owned(),
            vpc_id: "vpc-1".to_owned(),
            name: String::new(),
            description: String::new(),
            enterprise,
            inner_accept: !enterprise,
            tags: Vec::new(),
            created_ms: 0,
        };
        GroupUse { group, addresses, rules }
    }

    #[test]
    fn reasons_have_their_codes() {
        let known = [
            group("sg-1", false, 1999, 200),
            group("sg-2", true, 65_535, 200),
            group("sg-3", false, 0, 801),
        ];
        let code = |vpc: &str, ids: &[&str], more: u64| {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            check(&JOIN_INSTANCE, vpc, &ids, &known, |_| more).map_err(|refusal| refusal.code)
        };
        assert_eq!(code("vpc-1", &["sg-1"], 1), Ok(()));
        assert_eq!(code("vpc-1", &["sg-2"], 1), Ok(()));
        assert_eq!(code("vpc-1", &["sg-1", "sg-3"], 0).unwrap_err(), "AclLimitExceed");
        assert_eq!(code("vpc-1", &["sg-1"], 2).unwrap_err(), "SecurityGroupInstanceLimitExceeded");
        assert_eq!(code("vpc-1", &["sg-2"], 2).unwrap_err(), "SecurityGroupInstanceLimitExceeded");
        assert_eq!(code("vpc-2", &["sg-1"], 1).unwrap_err(), "InvalidInstanceId.Mismatch");
        assert_eq!(code("vpc-1", &["sg-9"], 1).unwrap_err(), "InvalidSecurityGroupId.NotFound");
        let mixed = code("vpc-1", &["sg-1", "sg-2"], 0).unwrap_err();
        assert_eq!(mixed, "EnterpriseGroupLimited.MutliGroupType");
        let many: Vec<String> = (0..11).map(|number| format!("sg-{number}")).collect();
        let refused = asked("", &many, &NEW_INSTANCE).unwrap_err();
        assert_eq!(refused.code, "JoinedGroupLimitExceed");
        assert_eq!(asked("sg-1", &many, &ENI).unwrap_err().code, "InvalidParameter.Conflict");
        assert_eq!(asked("", &["a".to_owned(), "a".to_owned()], &ENI).unwrap(), ["a"]);
    }
}
