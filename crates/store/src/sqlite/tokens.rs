//! Client tokens.

use super::writer::Tx;
use crate::{Answer, ClientToken, StoreError};
use rusqlite::{Connection, OptionalExtension as _, params};

/// The answer kept for a token.
pub(super) fn kept(
    conn: &Connection,
    token: Option<&ClientToken>,
) -> Result<Option<Answer>, StoreError> {
    let Some(token) = token else { return Ok(None) };
    let row: Option<(Vec<u8>, Vec<u8>)> = conn
        .prepare_cached(
            "SELECT request_hash, answer FROM client_tokens WHERE action = ?1 AND token = ?2",
        )?
        .query_row(params![token.action, token.token], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match row {
        None => Ok(None),
        Some((hash, bytes)) if hash == token.request_hash => Ok(Some(Answer { bytes })),
        Some(_) => Err(StoreError::TokenMismatch {
            action: token.action.clone(),
            token: token.token.clone(),
        }),
    }
}

/// Keeps the answer of a transaction with its token.
pub(super) fn keep(
    tx: &Tx<'_>,
    token: Option<ClientToken>,
    bytes: Vec<u8>,
) -> Result<Answer, StoreError> {
    if let Some(token) = token {
        tx.conn
            .prepare_cached(
                "INSERT INTO client_tokens (action, token, request_hash, answer, created_ms)
                 VALUES (?1, ?2, ?3, ?4, ?5)",
            )?
            .execute(params![token.action, token.token, token.request_hash, bytes, token.now_ms])?;
    }
    Ok(Answer { bytes })
}
