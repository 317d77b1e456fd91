//! `ecsctl key-pair`.

use super::{Context, pages};
use crate::{
    error::{Error, Result},
    output::{
        Format, json,
        table::{self, Row},
    },
};
use api::v1::{
    CreateKeyPairRequest, DeleteKeyPairsRequest, DescribeKeyPairsRequest, ImportKeyPairRequest,
    KeyPair,
};
use clap::Subcommand;
use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

#[derive(Debug, Subcommand)]
pub(crate) enum KeyPairCommand {
    /// Makes a key pair and writes its private key to a file only you can read
    #[command(after_help = "Example:\n  ecsctl key-pair create demo     # writes ./demo.pem")]
    Create {
        name: String,
        /// Where to write the private key; default: NAME.pem
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// Makes a public key of yours known
    #[command(after_help = "Example:\n  ecsctl key-pair import me ~/.ssh/id_ed25519.pub")]
    Import { name: String, public_key_file: PathBuf },
    /// Lists key pairs
    #[command(after_help = "Example:\n  ecsctl key-pair list 'web-*'")]
    List {
        /// Name, * as wildcard
        #[arg(default_value = "", hide_default_value = true)]
        name: String,
    },
    /// Deletes key pairs
    #[command(after_help = "Example:\n  ecsctl key-pair delete demo")]
    Delete {
        #[arg(required = true)]
        names: Vec<String>,
    },
}

impl Row for KeyPair {
    const COLUMNS: &'static [&'static str] =
        &["NAME", "FINGERPRINT", "CREATED", "ID", "PUBLIC KEY"];
    const WIDE: usize = 2;
    fn id(&self) -> String {
        self.key_pair_name.clone()
    }
    fn cells(&self) -> Vec<String> {
        vec![
            self.key_pair_name.clone(),
            self.key_pair_finger_print.clone(),
            self.creation_time.clone(),
            self.key_pair_id.clone(),
            self.public_key.clone(),
        ]
    }
}

pub(crate) async fn run(context: &Context, command: KeyPairCommand) -> Result<()> {
    let mut service = context.cloud.key_pairs();
    let region_id = context.region.clone();
    match command {
        KeyPairCommand::Create { name, file } => {
            let path = file.unwrap_or_else(|| PathBuf::from(format!("{name}.pem")));
            // First the file, then the key: the key is told once and must have where to go.
            let mut file = fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .map_err(Error::file("create", &path))?;
            let request = CreateKeyPairRequest { region_id, key_pair_name: name.clone() };
            let answer = match service.create_key_pair(request).await {
                Ok(answer) => answer.into_inner(),
                Err(status) => {
                    let _ = fs::remove_file(&path);
                    return Err(status.into());
                }
            };
            file.write_all(answer.private_key_body.as_bytes())
                .and_then(|()| file.sync_all())
                .map_err(Error::file("write", &path))?;
            show_created(context.format, &answer, &path);
        }
        KeyPairCommand::Import { name, public_key_file } => {
            let public_key_body = fs::read_to_string(&public_key_file)
                .map_err(Error::file("read", &public_key_file))?;
            let request =
                ImportKeyPairRequest { region_id, key_pair_name: name.clone(), public_key_body };
            let answer = service.import_key_pair(request).await?.into_inner();
            let sentence = format!("key pair {name} imported, {}", answer.key_pair_finger_print);
            context.done(&answer, &[name], &sentence);
        }
        KeyPairCommand::List { name } => {
            let pairs = pages::all(async |page_number| {
                let request = DescribeKeyPairsRequest {
                    region_id: region_id.clone(),
                    key_pair_name: name.clone(),
                    key_pair_finger_print: String::new(),
                    page_number,
                    page_size: pages::PAGE_SIZE,
                };
                let answer = service.describe_key_pairs(request).await?.into_inner();
                Ok((answer.key_pairs, answer.total_count))
            })
            .await?;
            table::print(context.format, &pairs);
        }
        KeyPairCommand::Delete { names } => {
            let request = DeleteKeyPairsRequest { region_id, key_pair_names: names.clone() };
            let answer = service.delete_key_pairs(request).await?.into_inner();
            let sentence = format!("key pair {} deleted", names.join(", "));
            context.done(&answer, &names, &sentence);
        }
    }
    Ok(())
}

/// The private key itself is never shown.
fn show_created(format: Format, answer: &api::v1::CreateKeyPairResponse, path: &Path) {
    match format {
        Format::Json => json::print(&serde_json::json!({
            "request_id": answer.request_id,
            "key_pair_id": answer.key_pair_id,
            "key_pair_name": answer.key_pair_name,
            "key_pair_finger_print": answer.key_pair_finger_print,
            "private_key_file": path,
        })),
        Format::Name => println!("{}", answer.key_pair_name),
        Format::Table | Format::Wide => println!(
            "key pair {} created, {}; its private key is in {}",
            answer.key_pair_name,
            answer.key_pair_finger_print,
            path.display()
        ),
    }
}
