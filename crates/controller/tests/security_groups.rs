//! Security groups: their rules, members and limits, against the real process and a fake agent.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cloud_process;
mod disk_calls;
mod eni_calls;
mod fake_agent;

use api::v1::{prefix_list_service_client::PrefixListServiceClient, *};
use cloud_process::{CloudProcess, code};
use disk_calls::{cloud_with_host, run};
use eni_calls::*;

fn text(value: &str) -> String {
    value.to_owned()
}

fn from(cidr: &str, port: u32) -> Permission {
    Permission {
        ip_protocol: text("tcp"),
        port_range: format!("{port}/{port}"),
        source_cidr_ip: text(cidr),
        ..Default::default()
    }
}

async fn authorize(
    cloud: &CloudProcess,
    group_id: &str,
    permissions: Vec<Permission>,
) -> Result<(), tonic::Status> {
    let request = AuthorizeSecurityGroupRequest {
        security_group_id: group_id.to_owned(),
        permissions,
        ..Default::default()
    };
    cloud.groups().authorize_security_group(request).await.map(drop)
}

async fn rules(cloud: &CloudProcess, group_id: &str) -> Vec<Permission> {
    let request = DescribeSecurityGroupAttributeRequest {
        security_group_id: group_id.to_owned(),
        ..Default::default()
    };
    let answer = cloud.groups().describe_security_group_attribute(request).await.unwrap();
    answer.into_inner().permissions
}

fn joining(group_id: &str, instance_id: &str, eni_id: &str) -> JoinSecurityGroupRequest {
    JoinSecurityGroupRequest {
        security_group_id: group_id.to_owned(),
        instance_id: instance_id.to_owned(),
        network_interface_id: eni_id.to_owned(),
        ..Default::default()
    }
}

async fn join(
    cloud: &CloudProcess,
    group_id: &str,
    instance_id: &str,
    eni_id: &str,
) -> Result<(), tonic::Status> {
    cloud.groups().join_security_group(joining(group_id, instance_id, eni_id)).await.map(drop)
}

async fn leave(
    cloud: &CloudProcess,
    group_id: &str,
    instance_id: &str,
    eni_id: &str,
) -> Result<(), tonic::Status> {
    let request = LeaveSecurityGroupRequest {
        security_group_id: group_id.to_owned(),
        instance_id: instance_id.to_owned(),
        network_interface_id: eni_id.to_owned(),
        ..Default::default()
    };
    cloud.groups().leave_security_group(request).await.map(drop)
}

async fn prefix_list(cloud: &CloudProcess) -> String {
    let request = CreatePrefixListRequest {
        prefix_list_name: text("offices"),
        address_family: text("IPv4"),
        max_entries: 3,
        ..Default::default()
    };
    let mut lists = PrefixListServiceClient::new(cloud.channel());
    lists.create_prefix_list(request).await.unwrap().into_inner().prefix_list_id
}

#[tokio::test]
async fn rules_are_modified_by_their_ids() {
    let (cloud, site, agent) = cloud_with_host().await;
    run(&cloud, site.run(1)).await;
    let (group, other) =
        (site.security_group_id.clone(), create_group(&cloud, &site.vpc_id, "").await);
    let six = Permission {
        ip_protocol: text("icmpv6"),
        ipv6_source_cidr_ip: text("2001:db8::/32"),
        ..Default::default()
    };
    let offices = prefix_list(&cloud).await;
    let list = Permission {
        source_cidr_ip: String::new(),
        source_prefix_list_id: offices.clone(),
        policy: text("drop"),
        source_port_range: text("1000/2000"),
        ..from("", 443)
    };
    authorize(&cloud, &group, vec![from("10.0.0.0/8", 22), six, list]).await.unwrap();
    let before = rules(&cloud, &group).await;
    assert_eq!(before[1].ipv6_source_cidr_ip, "2001:db8::/32");
    assert_eq!(before[2].source_prefix_list_id, offices);
    until_spec(&agent, |spec| spec.security_groups[0].rules.len() == 3).await;
    let spec = agent.spec().security_groups[0].rules.clone();
    assert_eq!((spec[1].cidr.as_str(), spec[1].ip_protocol.as_str()), ("2001:db8::/32", "icmpv6"));
    assert_eq!((spec[2].prefix_list_id.as_str(), spec[2].cidr.as_str()), (&*offices, ""));
    assert!(spec[2].drop && spec[2].source_port_range == "1000/2000");

    let id = before[0].security_group_rule_id.clone();
    let change = || ModifySecurityGroupRuleRequest {
        security_group_id: group.clone(),
        security_group_rule_id: id.clone(),
        ..Default::default()
    };
    let to_group = ModifySecurityGroupRuleRequest {
        source_group_id: other.clone(),
        priority: text("7"),
        description: Some(text("from others")),
        client_token: text("once"),
        ..change()
    };
    let mut groups = cloud.groups();
    groups.modify_security_group_rule(to_group.clone()).await.unwrap();
    groups.modify_security_group_rule(to_group.clone()).await.unwrap();
    let reused = ModifySecurityGroupRuleRequest { priority: text("8"), ..to_group };
    let refused = groups.modify_security_group_rule(reused).await.unwrap_err();
    assert_eq!(code(&refused), "IdempotentParameterMismatch");
    let after = rules(&cloud, &group).await;
    assert_eq!(
        after[0],
        Permission {
            source_cidr_ip: String::new(),
            source_group_id: other.clone(),
            priority: text("7"),
            description: text("from others"),
            ..before[0].clone()
        }
    );
    assert_eq!(after[1..], before[1..]);
    until_spec(&agent, |spec| {
        spec.security_groups.iter().any(|one| one.security_group_id == other)
    })
    .await;
    let references = DescribeSecurityGroupReferencesRequest {
        security_group_id: vec![group.clone(), other.clone()],
        ..Default::default()
    };
    let named = groups.describe_security_group_references(references).await.unwrap().into_inner();
    let [named] = named.security_group_references.as_slice() else { panic!("{named:?}") };
    assert_eq!(named.security_group_id, other);
    assert_eq!(named.referencing_security_group_ids, std::slice::from_ref(&group));

    // What a rule was stays what the rest of it is.
    let back = ModifySecurityGroupRuleRequest {
        source_cidr_ip: text("10.0.0.0/8"),
        port_range: text("443/443"),
        ..change()
    };
    groups.modify_security_group_rule(back).await.unwrap();
    let after = rules(&cloud, &group).await;
    assert_eq!((after[0].priority.as_str(), after[0].port_range.as_str()), ("7", "443/443"));
    assert_eq!(after[0].source_group_id, "");
    authorize(&cloud, &group, vec![from("10.0.0.0/8", 22)]).await.unwrap();
    for (request, expected) in [
        (
            ModifySecurityGroupRuleRequest { security_group_rule_id: text("sgr-x"), ..change() },
            "SecurityGroupRule.NotFound",
        ),
        (
            ModifySecurityGroupRuleRequest { security_group_id: text("sg-x"), ..change() },
            "InvalidSecurityGroupId.NotFound",
        ),
        (
            ModifySecurityGroupRuleRequest { security_group_rule_id: text(""), ..change() },
            "MissingParameter",
        ),
        (
            ModifySecurityGroupRuleRequest {
                port_range: text("22/22"),
                priority: text("1"),
                ..change()
            },
            "InvalidParamter.Conflict",
        ),
        (
            ModifySecurityGroupRuleRequest { ip_protocol: text("icmp"), ..change() },
            "InvalidPortRange.Malformed",
        ),
        (
            ModifySecurityGroupRuleRequest { source_group_id: text("sg-x"), ..change() },
            "InvalidSourceGroupId.NotFound",
        ),
        (
            ModifySecurityGroupRuleRequest {
                ip_protocol: text("icmpv6"),
                port_range: text("-1/-1"),
                ..change()
            },
            "InvalidParam.Ipv6ProtocolConflictWithIpv4Address",
        ),
    ] {
        let refused = groups.modify_security_group_rule(request).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{refused}");
    }
    let egress = ModifySecurityGroupEgressRuleRequest {
        security_group_id: group.clone(),
        security_group_rule_id: id,
        ..Default::default()
    };
    let refused = groups.modify_security_group_egress_rule(egress.clone()).await.unwrap_err();
    assert_eq!(code(&refused), "SecurityGroupRule.NotFound", "it is one of the other direction");
    let out = AuthorizeSecurityGroupEgressRequest {
        security_group_id: group.clone(),
        permissions: vec![Permission {
            ip_protocol: text("all"),
            dest_cidr_ip: text("0.0.0.0/0"),
            ..Default::default()
        }],
        ..Default::default()
    };
    groups.authorize_security_group_egress(out).await.unwrap();
    let rule = rules(&cloud, &group).await.into_iter().find(|rule| rule.direction == "egress");
    let rule_id = rule.as_ref().unwrap().security_group_rule_id.clone();
    let of_own = ModifySecurityGroupEgressRuleRequest {
        security_group_rule_id: rule_id.clone(),
        source_cidr_ip: text("10.1.0.7"),
        ..egress.clone()
    };
    groups.modify_security_group_egress_rule(of_own).await.unwrap();
    let both = rules(&cloud, &group).await.into_iter().find(|rule| rule.direction == "egress");
    let both = both.unwrap();
    assert_eq!(
        (both.source_cidr_ip.as_str(), both.dest_cidr_ip.as_str()),
        ("10.1.0.7/32", "0.0.0.0/0"),
        "it is about one of its members' addresses now"
    );
    let mixed = ModifySecurityGroupEgressRuleRequest {
        security_group_rule_id: rule_id,
        ipv6_dest_cidr_ip: text("::/0"),
        ..egress.clone()
    };
    let refused = groups.modify_security_group_egress_rule(mixed.clone()).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidParamter.Conflict");
    let six = ModifySecurityGroupEgressRuleRequest { ipv6_source_cidr_ip: text("::/0"), ..mixed };
    groups.modify_security_group_egress_rule(six).await.unwrap();
    let drop = ModifySecurityGroupEgressRuleRequest {
        security_group_rule_id: rule.unwrap().security_group_rule_id,
        policy: text("drop"),
        ipv6_dest_cidr_ip: text("::/0"),
        ..egress
    };
    groups.modify_security_group_egress_rule(drop).await.unwrap();
    let rule = rules(&cloud, &group).await.into_iter().find(|rule| rule.direction == "egress");
    let rule = rule.unwrap();
    assert_eq!((rule.policy.as_str(), rule.ipv6_dest_cidr_ip.as_str()), ("Drop", "::/0"));
    assert_eq!(rule.dest_cidr_ip, "");
}

#[tokio::test]
async fn instances_and_interfaces_join_and_leave() {
    let (cloud, site, agent) = cloud_with_host().await;
    let instance_id = run(&cloud, site.run(1)).await;
    let second = create_group(&cloud, &site.vpc_id, "").await;
    let advanced = create_group(&cloud, &site.vpc_id, "enterprise").await;
    let first = site.security_group_id.as_str();
    join(&cloud, &second, &instance_id, "").await.unwrap();
    let primary = primary_of(&cloud, &instance_id).await;
    assert_eq!(primary.security_group_ids, [first, &second]);
    until_spec(&agent, |spec| {
        spec.security_groups.len() == 2
            && spec.security_groups.iter().all(|group| group.member_ips.len() == 1)
    })
    .await;
    let eni_id = create_eni(&cloud, new_eni(&site)).await.network_interface_id;
    join(&cloud, &second, "", &eni_id).await.unwrap();
    let vpc = CreateVpcRequest { cidr_block: text("10.0.0.0/8"), ..Default::default() };
    let vpc_id = cloud.vpcs().create_vpc(vpc).await.unwrap().into_inner().vpc_id;
    let abroad = create_group(&cloud, &vpc_id, "").await;
    let primary_id = primary.network_interface_id.as_str();
    for (group, instance, eni, expected) in [
        (second.as_str(), instance_id.as_str(), "", "InvalidInstanceId.AlreadyExists"),
        (&second, "", &eni_id, "InvalidInstanceId.AlreadyExists"),
        (&abroad, &instance_id, "", "InvalidInstanceId.Mismatch"),
        (&abroad, "", &eni_id, "InvalidOperation.VpcMismatch"),
        (&advanced, &instance_id, "", "EnterpriseGroupLimited.MutliGroupType"),
        (&second, "", primary_id, "InvalidOperation.InvalidEniType"),
        ("sg-x", &instance_id, "", "InvalidSecurityGroupId.NotFound"),
        (&second, "i-x", "", "InvalidInstanceId.NotFound"),
        (&second, "", "eni-x", "InvalidEniId.NotFound"),
        (&second, "", "", "MissingParameter"),
        (&second, &instance_id, &eni_id, "InvalidParameter.Conflict"),
        ("", &instance_id, "", "MissingParameter"),
    ] {
        let refused = join(&cloud, group, instance, eni).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{refused}");
    }
    for number in 0..8 {
        let group = create_group(&cloud, &site.vpc_id, "").await;
        join(&cloud, &group, &instance_id, "").await.unwrap_or_else(|e| panic!("{number}: {e}"));
    }
    let eleventh = create_group(&cloud, &site.vpc_id, "").await;
    let refused = join(&cloud, &eleventh, &instance_id, "").await.unwrap_err();
    assert_eq!(code(&refused), "InstanceSecurityGroupLimitExceeded");

    leave(&cloud, first, &instance_id, "").await.unwrap();
    assert_eq!(primary_of(&cloud, &instance_id).await.security_group_ids.len(), 9);
    leave(&cloud, first, "", &eni_id).await.unwrap();
    for (group, instance, eni, expected) in [
        (first, instance_id.as_str(), "", "InstanceNotInSecurityGroup"),
        (&second, "", eni_id.as_str(), "InstanceLastSecurityGroup"),
        ("sg-x", &instance_id, "", "InvalidSecurityGroupId.NotFound"),
        (&second, "i-x", "", "InvalidInstanceId.NotFound"),
    ] {
        let refused = leave(&cloud, group, instance, eni).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{refused}");
    }
    until_spec(&agent, |spec| spec.instances[0].enis[0].security_group_ids.len() == 9).await;
    // All groups of an instance at once.
    let change = |groups: &[&str]| ModifyInstanceAttributeRequest {
        instance_id: instance_id.clone(),
        security_group_ids: groups.iter().map(ToString::to_string).collect(),
        description: Some(text("in its place")),
        ..Default::default()
    };
    let mut instances = cloud.instances();
    for (groups, expected) in [
        (vec![second.as_str(), &advanced], "EnterpriseGroupLimited.MutliGroupType"),
        (vec![&abroad], "InvalidInstanceId.Mismatch"),
        (vec!["sg-x"], "InvalidSecurityGroupId.NotFound"),
    ] {
        let refused = instances.modify_instance_attribute(change(&groups)).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{refused}");
    }
    instances.modify_instance_attribute(change(&[&advanced])).await.unwrap();
    let primary = primary_of(&cloud, &instance_id).await;
    assert_eq!(primary.security_group_ids, [advanced]);
    until_eni(&cloud, &primary.network_interface_id, |eni| eni.in_effect).await;
    let spec = agent.spec().instances.remove(0);
    assert_eq!(spec.enis[0].security_group_ids.len(), 1);
    let delete =
        DeleteSecurityGroupRequest { security_group_id: text(first), ..Default::default() };
    cloud.groups().delete_security_group(delete).await.unwrap();
}

#[tokio::test]
async fn names_and_policies_are_modified() {
    let (cloud, site, agent) = cloud_with_host().await;
    run(&cloud, site.run(1)).await;
    let group = site.security_group_id.clone();
    let mut groups = cloud.groups();
    let change = ModifySecurityGroupAttributeRequest {
        security_group_id: group.clone(),
        security_group_name: Some(text("web")),
        ..Default::default()
    };
    groups.modify_security_group_attribute(change.clone()).await.unwrap();
    let nothing =
        ModifySecurityGroupAttributeRequest { security_group_name: None, ..change.clone() };
    let refused = groups.modify_security_group_attribute(nothing).await.unwrap_err();
    assert_eq!(code(&refused), "MissingParameter");
    let bad =
        ModifySecurityGroupAttributeRequest { security_group_name: Some(text("1")), ..change };
    let refused = groups.modify_security_group_attribute(bad).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidSecurityGroupName.Malformed");
    let policy = |id: &str, policy: &str| ModifySecurityGroupPolicyRequest {
        security_group_id: text(id),
        inner_access_policy: text(policy),
        ..Default::default()
    };
    assert!(agent.spec().security_groups[0].inner_accept);
    groups.modify_security_group_policy(policy(&group, "drop")).await.unwrap();
    until_spec(&agent, |spec| !spec.security_groups[0].inner_accept).await;
    let advanced = create_group(&cloud, &site.vpc_id, "enterprise").await;
    for (request, expected) in [
        (policy(&group, "maybe"), "InvalidPolicy.Malformed"),
        (policy("sg-x", "Accept"), "InvalidSecurityGroupId.NotFound"),
        (policy(&advanced, "Accept"), "InvalidOperation.SecurityGroupType"),
    ] {
        let refused = groups.modify_security_group_policy(request).await.unwrap_err();
        assert_eq!(code(&refused), expected, "{refused}");
    }
    let all = DescribeSecurityGroupsRequest::default;
    for (request, expected) in [
        (all(), Ok(2)),
        (DescribeSecurityGroupsRequest { security_group_id: group.clone(), ..all() }, Ok(1)),
        (DescribeSecurityGroupsRequest { security_group_type: text("enterprise"), ..all() }, Ok(1)),
        (
            DescribeSecurityGroupsRequest {
                security_group_name: text("w*"),
                fuzzy_query: true,
                ..all()
            },
            Ok(1),
        ),
        (
            DescribeSecurityGroupsRequest { security_group_name: text("w*"), ..all() },
            Err("InvalidParameter"),
        ),
        (
            DescribeSecurityGroupsRequest { security_group_type: text("big"), ..all() },
            Err("InvalidParameter"),
        ),
        (DescribeSecurityGroupsRequest { dry_run: true, ..all() }, Err("DryRunOperation")),
        (DescribeSecurityGroupsRequest { max_results: 1, ..all() }, Ok(1)),
        (
            DescribeSecurityGroupsRequest {
                tag: vec![Tag { key: text("env"), value: String::new() }],
                ..all()
            },
            Ok(0),
        ),
    ] {
        let answer = groups.describe_security_groups(request.clone()).await;
        let found = answer
            .map(|answer| answer.into_inner().security_groups.len())
            .map_err(|refused| code(&refused));
        assert_eq!(found, expected.map_err(text), "{request:?}");
    }
    let one = DescribeSecurityGroupsRequest { security_group_id: group, ..all() };
    let one = groups.describe_security_groups(one).await.unwrap().into_inner();
    let one = &one.security_groups[0];
    assert_eq!((one.security_group_name.as_str(), one.ecs_count), ("web", 1));
    assert_eq!((one.inner_access_policy.as_str(), one.available_instance_amount), ("Drop", 1999));
}

#[tokio::test]
async fn limits_hold() {
    let (cloud, site, _agent) = cloud_with_host().await;
    let instance_id = run(&cloud, site.run(1)).await;
    let many = |range: std::ops::Range<u32>| range.map(|port| from("10.0.0.0/8", port)).collect();
    // 200 rules of a group, at most 20 of them naming groups.
    let full = create_group(&cloud, &site.vpc_id, "").await;
    authorize(&cloud, &full, many(1..101)).await.unwrap();
    authorize(&cloud, &full, many(101..201)).await.unwrap();
    authorize(&cloud, &full, many(1..101)).await.expect("rules that are there are not added again");
    let refused = authorize(&cloud, &full, many(201..202)).await.unwrap_err();
    assert_eq!(code(&refused), "AuthorizationLimitExceed");
    let refused = authorize(&cloud, &full, many(201..302)).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidParameter", "a call takes 100");
    let naming = create_group(&cloud, &site.vpc_id, "").await;
    let by_group = |port| Permission {
        source_cidr_ip: String::new(),
        source_group_id: full.clone(),
        ..from("", port)
    };
    authorize(&cloud, &naming, (1..21).map(by_group).collect()).await.unwrap();
    let refused = authorize(&cloud, &naming, vec![by_group(21)]).await.unwrap_err();
    assert_eq!(code(&refused), "AuthorizationLimitExceed");
    authorize(&cloud, &naming, many(1..2)).await.unwrap();
    let rule = rules(&cloud, &naming).await.pop().unwrap();
    let change = ModifySecurityGroupRuleRequest {
        security_group_id: naming.clone(),
        security_group_rule_id: rule.security_group_rule_id,
        source_group_id: full.clone(),
        port_range: text("99/99"),
        ..Default::default()
    };
    let refused = cloud.groups().modify_security_group_rule(change).await.unwrap_err();
    assert_eq!(code(&refused), "AuthorizationLimitExceed", "nor by modifying another");

    // 1000 rules of an interface: of five groups of 200 and one more.
    join(&cloud, &full, &instance_id, "").await.unwrap();
    for _ in 0..4 {
        let group = create_group(&cloud, &site.vpc_id, "").await;
        authorize(&cloud, &group, many(1..101)).await.unwrap();
        authorize(&cloud, &group, many(101..200)).await.unwrap();
        join(&cloud, &group, &instance_id, "").await.unwrap();
    }
    let refused = join(&cloud, &naming, &instance_id, "").await.unwrap_err();
    assert_eq!(code(&refused), "AclLimitExceed");
    authorize(&cloud, &site.security_group_id, many(1..5)).await.unwrap();
    let refused = authorize(&cloud, &site.security_group_id, many(5..6)).await.unwrap_err();
    assert_eq!(code(&refused), "AuthorizationLimitExceed");
    assert!(refused.message().contains("1001 rules"), "{refused}");

    // Advanced groups neither name groups nor are they named.
    let advanced = create_group(&cloud, &site.vpc_id, "enterprise").await;
    let refused = authorize(&cloud, &advanced, vec![by_group(1)]).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidOperation.SecurityGroupType");
    let by_advanced = Permission { source_group_id: advanced, ..by_group(1) };
    let plain = create_group(&cloud, &site.vpc_id, "").await;
    let refused = authorize(&cloud, &plain, vec![by_advanced]).await.unwrap_err();
    assert_eq!(code(&refused), "InvalidOperation.SecurityGroupType");
}

#[tokio::test]
async fn a_basic_group_has_two_thousand_addresses() {
    let (cloud, site, _agent) = cloud_with_host().await;
    let group = site.security_group_id.clone();
    // Eleven addresses each.
    let big =
        CreateNetworkInterfaceRequest { secondary_private_ip_address_count: 10, ..new_eni(&site) };
    let mut made = Vec::new();
    for _ in 0..181 {
        made.push(create_eni(&cloud, big.clone()).await.network_interface_id);
    }
    let mut service = cloud.network_interfaces();
    let refused = service.create_network_interface(big).await.unwrap_err();
    assert_eq!(code(&refused), "SecurityGroupInstanceLimitExceed");
    for _ in 0..9 {
        made.push(create_eni(&cloud, new_eni(&site)).await.network_interface_id);
    }
    let refused = service.create_network_interface(new_eni(&site)).await.unwrap_err();
    assert_eq!(code(&refused), "SecurityGroupInstanceLimitExceed");
    let refused = service.assign_private_ip_addresses(assign(&made[185], 1, &[])).await;
    assert_eq!(code(&refused.unwrap_err()), "SecurityGroupInstanceLimitExceed");
    let refused = cloud.instances().run_instances(site.run(1)).await.unwrap_err();
    assert_eq!(code(&refused), "SecurityGroupInstanceLimitExceed");
    let other = create_group(&cloud, &site.vpc_id, "").await;
    let elsewhere = CreateNetworkInterfaceRequest { security_group_id: other, ..new_eni(&site) };
    let elsewhere = create_eni(&cloud, elsewhere).await.network_interface_id;
    let refused = join(&cloud, &group, "", &elsewhere).await.unwrap_err();
    assert_eq!(code(&refused), "SecurityGroupInstanceLimitExceeded");
    delete_eni(&cloud, &made[189]).await.unwrap();
    join(&cloud, &group, "", &elsewhere).await.unwrap();
}
