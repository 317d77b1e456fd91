//! Images.

use super::{
    query::{self, Conditions},
    tokens,
    writer::Tx,
};
use crate::*;
use rusqlite::{Connection, params};

pub(super) fn image(conn: &Connection, image_id: &str) -> Result<Option<ImageRecord>, StoreError> {
    query::first(conn, "SELECT * FROM images WHERE image_id = ?1", [image_id])
}

pub(super) fn begin(tx: &mut Tx<'_>, image: &ImageRecord) -> Result<(), StoreError> {
    let taken = query::count(
        tx.conn,
        "SELECT count(*) FROM images WHERE name = ?1 AND status NOT IN ('CreateFailed', 'Deleted')",
        [&image.name],
    )?;
    if taken > 0 {
        return Err(StoreError::AlreadyExists { what: format!("image name {}", image.name) });
    }
    let revision = tx.revision()?;
    tx.conn
        .prepare_cached(
            "INSERT INTO images (image_id, revision, name, description, status, status_reason,
                 architecture, os_type, platform, family, format, file_bytes, virtual_bytes,
                 sha256, created_ms)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        )?
        .execute(params![
            image.image_id,
            revision as i64,
            image.name,
            image.description,
            image.status,
            image.status_reason,
            image.architecture,
            image.os_type,
            image.platform,
            image.family,
            image.format,
            image.file_bytes as i64,
            image.virtual_bytes as i64,
            image.sha256,
            image.created_ms
        ])?;
    tx.change("image", &image.image_id, "")
}

pub(super) fn finish(
    tx: &mut Tx<'_>,
    token: Option<ClientToken>,
    planned: Planned<ImageRecord>,
) -> Result<Answer, StoreError> {
    if let Some(token) = &token
        && tokens::kept(tx.conn, Some(token))?.is_some()
    {
        return Err(StoreError::AlreadyExists { what: format!("client token {}", token.token) });
    }
    let image = &planned.record;
    let revision = tx.revision()?;
    tx.conn
        .prepare_cached(
            "UPDATE images SET revision = ?2, status = ?3, status_reason = ?4, format = ?5,
                 file_bytes = ?6, virtual_bytes = ?7, sha256 = ?8
             WHERE image_id = ?1",
        )?
        .execute(params![
            image.image_id,
            revision as i64,
            image.status,
            image.status_reason,
            image.format,
            image.file_bytes as i64,
            image.virtual_bytes as i64,
            image.sha256
        ])?;
    tx.change("image", &image.image_id, "")?;
    let token = token.filter(|_| image.status == "Available");
    tokens::keep(tx, token, planned.answer)
}

pub(super) fn fail_unfinished(tx: &mut Tx<'_>, reason: &str) -> Result<u64, StoreError> {
    let ids: Vec<String> =
        query::column(tx.conn, "SELECT image_id FROM images WHERE status = 'Creating'", [])?;
    for image_id in &ids {
        let revision = tx.revision()?;
        tx.conn
            .prepare_cached(
                "UPDATE images SET revision = ?2, status = 'CreateFailed', status_reason = ?3
                 WHERE image_id = ?1",
            )?
            .execute(params![image_id, revision as i64, reason])?;
        tx.change("image", image_id, "")?;
    }
    Ok(ids.len() as u64)
}

pub(super) fn view(conn: &Connection, image_id: &str) -> Result<ImageView, StoreError> {
    Ok(ImageView {
        image: image(conn, image_id)?,
        used_by: query::column(
            conn,
            "SELECT instance_id FROM instances WHERE image_id = ?1 ORDER BY seq LIMIT 10",
            [image_id],
        )?,
    })
}

/// Disks lie on an image for as long as they live, so one in use is only marked.
pub(super) fn delete(tx: &mut Tx<'_>, image_id: &str) -> Result<(), StoreError> {
    let revision = tx.revision()?;
    tx.conn
        .prepare_cached(
            "UPDATE images SET revision = ?2, status = 'Deleted', status_reason = ''
             WHERE image_id = ?1",
        )?
        .execute(params![image_id, revision as i64])?;
    tx.change("image", image_id, "")?;
    drop_if_unused(tx, image_id)
}

/// Removes an image that is marked deleted and that no disk and no snapshot lies on any more.
pub(super) fn drop_if_unused(tx: &mut Tx<'_>, image_id: &str) -> Result<(), StoreError> {
    let dropped = tx
        .conn
        .prepare_cached(
            "DELETE FROM images WHERE image_id = ?1 AND status = 'Deleted'
                 AND NOT EXISTS (SELECT 1 FROM disks WHERE disks.image_id = ?1)
                 AND NOT EXISTS (SELECT 1 FROM snapshots WHERE snapshots.image_id = ?1)",
        )?
        .execute([image_id])?;
    if dropped > 0 {
        tx.change("image", image_id, "")?;
    }
    Ok(())
}

pub(super) fn list(
    conn: &Connection,
    filter: &ImageFilter,
    page: Page,
) -> Result<Listed<(ImageRecord, bool)>, StoreError> {
    let mut conditions = Conditions::default();
    conditions.one_of("image_id", &filter.image_ids);
    conditions.matches("name", &filter.name);
    conditions.equal("family", &filter.family);
    conditions.one_of("status", &filter.statuses);
    conditions.equal("architecture", &filter.architecture);
    let listed: Listed<ImageRecord> = query::list(conn, "images", conditions, page)?;
    let items = listed
        .items
        .into_iter()
        .map(|image| {
            let used = query::count(
                conn,
                "SELECT EXISTS (SELECT 1 FROM instances WHERE image_id = ?1)",
                [&image.image_id],
            )?;
            Ok((image, used > 0))
        })
        .collect::<Result<_, StoreError>>()?;
    Ok(Listed { items, total: listed.total, next: listed.next })
}
