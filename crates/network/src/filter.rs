//! The packet filter of a namespace: what is in force, and how it is changed.

use crate::{
    Error, TABLE_NAME,
    namespace::Namespace,
    security_groups::{compile::DHCP_RATE_SET, ruleset::Ruleset},
};
use sha2::{Digest as _, Sha256};
use std::{
    ffi::OsString,
    io::{self, Write as _},
    path::Path,
    process::{Command, Stdio},
};

/// A ruleset that was put in force, and how the kernel showed it then.
#[derive(Debug)]
pub(crate) struct Applied {
    ruleset: Ruleset,
    generation: u32,
    listing: [u8; 32],
}

/// Makes `desired` the rules of the namespace, if they are not already. `applied` is what an
/// earlier call left; without it, or if somebody changed the rules since, all are replaced. Either
/// way it is one transaction: on an error the rules that were in force still are. Every change brings
/// a new generation, so that flows older than it are judged again.
pub(crate) async fn ensure(
    namespace: &Namespace,
    nft: &Path,
    desired: Ruleset,
    applied: &mut Option<Applied>,
) -> Result<usize, Error> {
    if let Some(before) = applied
        && fingerprint(&list(namespace, nft).await?) == before.listing
    {
        if before.ruleset == desired {
            return Ok(0);
        }
        let generation = next_generation(before.generation);
        let script = desired
            .of_generation(generation)
            .changes_from(&before.ruleset.of_generation(before.generation));
        match apply(namespace, nft, script).await {
            Ok(()) => return record(namespace, nft, desired, generation, applied).await,
            Err(e) => tracing::warn!(
                namespace = namespace.name,
                error = %e,
                "the change of the rules failed, replacing them"
            ),
        }
    }
    let generation = next_generation(applied.as_ref().map_or(0, |before| before.generation));
    apply(namespace, nft, desired.of_generation(generation).replace_all()).await?;
    record(namespace, nft, desired, generation, applied).await
}

/// Random, since an agent that was just started knows nothing of the ones before it, and a flow may
/// sleep through any number of them.
fn next_generation(before: u32) -> u32 {
    loop {
        let generation = rand::random();
        if generation != 0 && generation != before {
            return generation;
        }
    }
}

async fn record(
    namespace: &Namespace,
    nft: &Path,
    ruleset: Ruleset,
    generation: u32,
    applied: &mut Option<Applied>,
) -> Result<usize, Error> {
    *applied = None;
    let listing = fingerprint(&list(namespace, nft).await?);
    *applied = Some(Applied { ruleset, generation, listing });
    Ok(1)
}

/// Whether the namespace has a filter of ours, thus drops what no rule allows.
pub(crate) async fn is_in_force(namespace: &Namespace, nft: &Path) -> bool {
    let Ok(listing) = list(namespace, nft).await else { return false };
    let objects = listing["nftables"].as_array();
    let drops = |hook: &str| {
        objects.into_iter().flatten().any(|object| {
            let chain = &object["chain"];
            chain["family"] == "inet"
                && chain["table"] == TABLE_NAME
                && chain["hook"] == hook
                && chain["policy"] == "drop"
        })
    };
    ["prerouting", "forward", "input", "output"].into_iter().all(drops)
}

/// The names of our tables in the namespace.
pub(crate) async fn tables(namespace: &Namespace, nft: &Path) -> Result<Vec<String>, Error> {
    let text = run(namespace, nft, &["-j", "list", "tables"], String::new()).await?;
    let listing = parse(namespace, &text)?;
    Ok(listing["nftables"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|object| &object["table"])
        .filter(|table| table["name"] == TABLE_NAME)
        .filter_map(|table| Some(format!("{} {TABLE_NAME}", table["family"].as_str()?)))
        .collect())
}

async fn apply(namespace: &Namespace, nft: &Path, script: String) -> Result<(), Error> {
    run(namespace, nft, &["-f", "-"], script).await.map(drop)
}

async fn list(namespace: &Namespace, nft: &Path) -> Result<serde_json::Value, Error> {
    let text = run(namespace, nft, &["-j", "-s", "list", "ruleset"], String::new()).await?;
    let mut listing = parse(namespace, &text)?;
    for object in listing["nftables"].as_array_mut().into_iter().flatten() {
        if let Some(set) = object.get_mut("set").and_then(|set| set.as_object_mut())
            && set.get("name").is_some_and(|name| name == DHCP_RATE_SET)
        {
            set.remove("elem");
        }
    }
    Ok(listing)
}

fn parse(namespace: &Namespace, text: &[u8]) -> Result<serde_json::Value, Error> {
    serde_json::from_slice(text).map_err(|e| Error::Nft {
        namespace: namespace.name.clone(),
        message: format!("cannot read what it lists: {e}"),
    })
}

fn fingerprint(listing: &serde_json::Value) -> [u8; 32] {
    Sha256::digest(listing.to_string().as_bytes()).into()
}

/// Runs nft inside the namespace: a child starts in the namespace of the thread that makes it.
async fn run(
    namespace: &Namespace,
    nft: &Path,
    arguments: &[&str],
    input: String,
) -> Result<Vec<u8>, Error> {
    let program = OsString::from(nft);
    let arguments: Vec<String> = arguments.iter().map(|a| (*a).to_owned()).collect();
    let output = namespace
        .run(move || -> io::Result<_> {
            let mut child = Command::new(program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            // nft reads all before it prints. One that ends early says why on its stderr.
            if let Some(mut stdin) = child.stdin.take() {
                let _ = stdin.write_all(input.as_bytes());
            }
            child.wait_with_output()
        })
        .await?
        .map_err(|e| {
            Error::io(format!("run {} (package nftables) in {}", nft.display(), namespace.name), e)
        })?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let message = String::from_utf8_lossy(&output.stderr);
    let message: String = message.trim().chars().take(1000).collect();
    Err(Error::Nft { namespace: namespace.name.clone(), message })
}
