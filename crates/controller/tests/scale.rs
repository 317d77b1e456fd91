//! Lists stay quick as they grow, and creates share their fsyncs.

#![allow(clippy::unwrap_used, clippy::panic)]

mod cloud_process;
mod fake_agent;

use api::v1::*;
use cloud_process::CloudProcess;
use fake_agent::{client, registration};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_many_instances_is_quick() {
    const CALLS: u32 = 40;
    let cloud = CloudProcess::start(&["--cpu-overcommit", "1000"]).await;
    let mut site = cloud.site().await;
    // A normal group has at most 2000 members.
    let group = CreateSecurityGroupRequest {
        vpc_id: site.vpc_id.clone(),
        security_group_type: "enterprise".to_owned(),
        ..Default::default()
    };
    let made = cloud.groups().create_security_group(group).await.unwrap().into_inner();
    site.security_group_id = made.security_group_id;
    client(&cloud).register_host(registration("host-1", 1000, 1 << 30)).await.unwrap();
    let begin = Instant::now();
    let calls: Vec<_> = (0..CALLS)
        .map(|_| {
            let (mut instances, request) = (cloud.instances(), site.run(100));
            tokio::spawn(async move { instances.run_instances(request).await.unwrap() })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
    let total = CALLS * 100;
    println!("{total} instances made in {:?}", begin.elapsed());
    let mut best = Duration::MAX;
    for number in [1, 20, 40] {
        let request = DescribeInstancesRequest {
            page_number: number,
            page_size: 100,
            vpc_id: site.vpc_id.clone(),
            ..Default::default()
        };
        let begin = Instant::now();
        let page = cloud.instances().describe_instances(request).await.unwrap().into_inner();
        println!("page {number} in {:?}", begin.elapsed());
        best = best.min(begin.elapsed());
        assert_eq!((page.total_count, page.instances.len()), (total, 100));
    }
    // An unoptimised build on a busy machine; without indexes it is far above.
    assert!(best < Duration::from_millis(500), "{best:?}");
}
