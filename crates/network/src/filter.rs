//! The packet filter of a namespace: what is in force, and how it is changed.

use crate::{
    Error,
    namespace::Namespace,
    nfnetlink,
    security_groups::{
        compile::DHCP_RATE_SET,
        ruleset::{Family, Listed, Ruleset},
    },
};
use sha2::{Digest as _, Sha256};
use std::{
    ffi::OsString,
    io::{self, Write as _},
    path::Path,
    process::{Command, Stdio},
};

/// Whose the tables of a namespace are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All are ours; others go.
    Namespace,
    /// Those with the ruleset's name are ours, and others' business is theirs.
    Name,
}

/// A ruleset that was put in force, and how the kernel counted and showed it then.
#[derive(Debug)]
pub(crate) struct Applied {
    ruleset: Ruleset,
    /// Stamped on flows.
    generation: u32,
    /// The kernel's count of transactions, while nobody else made one.
    transactions: u32,
    /// What was listed, where others may make transactions of their own.
    listing: Option<[u8; 32]>,
}

/// What [`ensure`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Nothing: all was as desired.
    None,
    /// The desired rules are others than before.
    Desired,
    /// Somebody else had changed the rules, or nothing was known of them.
    Replaced,
}

/// Makes `desired` the rules of the namespace, if they are not already. `applied` is what an
/// earlier call left; without it, or if somebody changed the rules since, all are replaced. Either
/// way it is one transaction: on an error the rules that were in force still are, and at no moment is
/// a chain of theirs without rules. Every change brings a new generation, so that flows older than it
/// are judged again.
pub(crate) async fn ensure(
    namespace: &Namespace,
    nft: &Path,
    scope: Scope,
    desired: Ruleset,
    applied: &mut Option<Applied>,
) -> Result<Change, Error> {
    let transactions = namespace.run(nfnetlink::rules_generation).await??;
    if let Some(before) = applied
        && is_untouched(namespace, nft, before, transactions).await?
    {
        if before.ruleset == desired {
            return Ok(Change::None);
        }
        let generation = next_generation(before.generation);
        let script = desired.changes_from(&before.ruleset, generation);
        match apply(namespace, nft, script).await {
            Ok(()) => {
                *applied = record(namespace, nft, scope, desired, generation, transactions).await?;
                return Ok(Change::Desired);
            }
            Err(e) => tracing::warn!(
                namespace = namespace.name,
                error = %e,
                "the change of the rules failed, replacing them"
            ),
        }
    }
    let generation = next_generation(applied.as_ref().map_or(0, |before| before.generation));
    let listed = Listed::parse(&list(namespace, nft, true).await?, &desired.name);
    let script = desired.replace(generation, &listed, scope == Scope::Namespace);
    apply(namespace, nft, script).await?;
    *applied = record(namespace, nft, scope, desired, generation, transactions).await?;
    Ok(Change::Replaced)
}

async fn is_untouched(
    namespace: &Namespace,
    nft: &Path,
    before: &mut Applied,
    transactions: u32,
) -> Result<bool, Error> {
    if before.transactions == transactions {
        return Ok(true);
    }
    let Some(listing) = before.listing else { return Ok(false) };
    let same = fingerprint(&list(namespace, nft, false).await?, &before.ruleset.name) == listing;
    if same {
        before.transactions = transactions;
    }
    Ok(same)
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

/// None if somebody else made a transaction meanwhile: what is in force is not known then.
async fn record(
    namespace: &Namespace,
    nft: &Path,
    scope: Scope,
    ruleset: Ruleset,
    generation: u32,
    before: u32,
) -> Result<Option<Applied>, Error> {
    let listing = match scope {
        Scope::Namespace => None,
        Scope::Name => Some(fingerprint(&list(namespace, nft, false).await?, &ruleset.name)),
    };
    let transactions = namespace.run(nfnetlink::rules_generation).await??;
    let alone = transactions == before.wrapping_add(1);
    Ok((alone || listing.is_some()).then_some(Applied {
        ruleset,
        generation,
        transactions,
        listing,
    }))
}

/// Whether the namespace has a filter of ours, thus drops what no rule allows.
pub(crate) async fn is_in_force(namespace: &Namespace, nft: &Path) -> bool {
    let Ok(listing) = list(namespace, nft, true).await else { return false };
    let listed = Listed::parse(&listing, crate::TABLE_NAME);
    let Some(table) = listed.tables.get(&Family::Inet) else { return false };
    ["prerouting", "forward", "input", "output"].into_iter().all(|hook| {
        let hook = format!(" hook {hook} ");
        table.chains.values().any(|c| c.hook.contains(&hook) && c.hook.ends_with("policy drop"))
    })
}

/// The tables of this name in the namespace.
pub(crate) async fn tables(
    namespace: &Namespace,
    nft: &Path,
    name: &str,
) -> Result<Vec<String>, Error> {
    let text = run(namespace, nft, &["-j", "list", "tables"], String::new()).await?;
    let listing = parse(namespace, &text)?;
    Ok(listing["nftables"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|object| &object["table"])
        .filter(|table| table["name"] == name)
        .filter_map(|table| Some(format!("{} {name}", table["family"].as_str()?)))
        .collect())
}

/// Removes the tables of this name.
pub(crate) async fn remove(namespace: &Namespace, nft: &Path, name: &str) -> Result<bool, Error> {
    let tables = tables(namespace, nft, name).await?;
    if tables.is_empty() {
        return Ok(false);
    }
    let script: String = tables.iter().map(|table| format!("delete table {table}\n")).collect();
    apply(namespace, nft, script).await?;
    Ok(true)
}

async fn apply(namespace: &Namespace, nft: &Path, script: String) -> Result<(), Error> {
    run(namespace, nft, &["-f", "-"], script).await.map(drop)
}

async fn list(namespace: &Namespace, nft: &Path, terse: bool) -> Result<serde_json::Value, Error> {
    let arguments: &[&str] = match terse {
        true => &["-j", "-t", "list", "ruleset"],
        false => &["-j", "-s", "list", "ruleset"],
    };
    parse(namespace, &run(namespace, nft, arguments, String::new()).await?)
}

fn parse(namespace: &Namespace, text: &[u8]) -> Result<serde_json::Value, Error> {
    serde_json::from_slice(text).map_err(|e| Error::Nft {
        namespace: namespace.name.clone(),
        message: format!("cannot read what it lists: {e}"),
    })
}

/// Of what the tables of this name hold, but for what packets put in it.
fn fingerprint(listing: &serde_json::Value, name: &str) -> [u8; 32] {
    let mut digest = Sha256::new();
    for object in listing["nftables"].as_array().into_iter().flatten() {
        let Some((kind, object)) = object.as_object().and_then(|o| o.iter().next()) else {
            continue;
        };
        let own = if kind == "table" { &object["name"] } else { &object["table"] };
        if own == name && !(kind == "set" && object["name"] == DHCP_RATE_SET) {
            digest.update(kind.as_bytes());
            digest.update(object.to_string().as_bytes());
        }
    }
    digest.finalize().into()
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
