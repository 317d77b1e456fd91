//! Images.

use super::{
    query::{self, Conditions},
    rows, security_groups, tokens,
    writer::Tx,
};
use crate::*;
use rusqlite::{Connection, params};

pub(super) fn image(conn: &Connection, image_id: &str) -> Result<Option<ImageRecord>, StoreError> {
    let found: Option<ImageRecord> =
        query::first(conn, "SELECT * FROM images WHERE image_id = ?1", [image_id])?;
    found.map(|image| with_disks(conn, image)).transpose()
}

fn with_disks(conn: &Connection, mut image: ImageRecord) -> Result<ImageRecord, StoreError> {
    image.disks = query::all(
        conn,
        "SELECT * FROM image_disks WHERE image_id = ?1 ORDER BY position",
        [&image.image_id],
    )?;
    Ok(image)
}

/// The image that new instances are made from.
pub(super) fn to_make_instances(
    conn: &Connection,
    lookup: &CreateLookup,
) -> Result<Option<ImageRecord>, StoreError> {
    if lookup.image_family.is_empty() {
        return image(conn, &lookup.image_id);
    }
    let found: Option<ImageRecord> = query::first(
        conn,
        "SELECT * FROM images WHERE family = ?1 AND status = 'Available' ORDER BY seq DESC LIMIT 1",
        [&lookup.image_family],
    )?;
    found.map(|image| with_disks(conn, image)).transpose()
}

/// Images made from any of the snapshots, or with a disk that is. Deleted ones are none.
pub(super) fn made_from(
    conn: &Connection,
    snapshot_ids: &[String],
) -> Result<Vec<ImageRecord>, StoreError> {
    let mut images = Vec::new();
    for snapshot_id in snapshot_ids {
        let found: Vec<ImageRecord> = query::all(
            conn,
            "SELECT * FROM images WHERE status NOT IN ('Deleted', 'CreateFailed')
                 AND image_id IN (SELECT image_id FROM image_disks WHERE snapshot_id = ?1
                     AND snapshot_id != '') ORDER BY seq",
            [snapshot_id],
        )?;
        images.extend(found);
    }
    Ok(images)
}

/// That no other image has the name.
fn check_name(conn: &Connection, image: &ImageRecord) -> Result<(), StoreError> {
    let taken = query::count(
        conn,
        "SELECT count(*) FROM images WHERE name = ?1 AND image_id != ?2
             AND status NOT IN ('CreateFailed', 'Deleted')",
        [&image.name, &image.image_id],
    )?;
    if taken > 0 {
        return Err(StoreError::AlreadyExists { what: format!("image name {}", image.name) });
    }
    Ok(())
}

/// Adds an image with its disks and tags.
pub(super) fn begin(tx: &mut Tx<'_>, image: &ImageRecord) -> Result<(), StoreError> {
    check_name(tx.conn, image)?;
    let revision = tx.revision()?;
    let (kms_key_id, data_key) = rows::key_columns(image.data_key.as_ref());
    tx.conn
        .prepare_cached(
            "INSERT INTO images (image_id, revision, name, description, status, status_reason,
                 architecture, os_type, platform, family, format, file_bytes, virtual_bytes,
                 sha256, created_ms, version, source_snapshot_id, source_image_id, kms_key_id,
                 data_key)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17,
                 ?18, ?19, ?20)",
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
            image.created_ms,
            image.version,
            image.source_snapshot_id,
            image.source_image_id,
            kms_key_id,
            data_key
        ])?;
    for (position, disk) in image.disks.iter().enumerate() {
        tx.conn
            .prepare_cached(
                "INSERT INTO image_disks (image_id, position, snapshot_id, size_gib)
                 VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![
                image.image_id,
                position as i64,
                disk.snapshot_id,
                disk.size_gib as i64
            ])?;
    }
    security_groups::insert_tags(tx, &image.image_id, &image.tags)?;
    tx.change("image", &image.image_id, "")
}

/// Writes what people can modify.
pub(super) fn describe(tx: &mut Tx<'_>, image: &ImageRecord) -> Result<(), StoreError> {
    check_name(tx.conn, image)?;
    let revision = tx.revision()?;
    tx.conn
        .prepare_cached(
            "UPDATE images SET revision = ?2, name = ?3, description = ?4, family = ?5,
                 version = ?6
             WHERE image_id = ?1",
        )?
        .execute(params![
            image.image_id,
            revision as i64,
            image.name,
            image.description,
            image.family,
            image.version
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
    let changed = tx
        .conn
        .prepare_cached(
            "UPDATE images SET revision = ?2, status = ?3, status_reason = ?4, format = ?5,
                 file_bytes = ?6, virtual_bytes = ?7, sha256 = ?8
             WHERE image_id = ?1 AND status = 'Creating'",
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
    if changed == 0 {
        return Err(StoreError::Refused(Refusal {
            status: 404,
            code: "InvalidImageId.NotFound".into(),
            message: format!("image {} was deleted while it was made", image.image_id),
        }));
    }
    tx.change("image", &image.image_id, "")?;
    let token = token.filter(|_| image.status == "Available");
    tokens::keep(tx, token, planned.answer)
}

pub(super) fn fail_unfinished(tx: &mut Tx<'_>, reason: &str) -> Result<u64, StoreError> {
    let ids: Vec<String> = query::column(
        tx.conn,
        "SELECT image_id FROM images WHERE status = 'Creating' AND source_snapshot_id = ''
             AND source_image_id = ''",
        [],
    )?;
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
        copies: query::column(
            conn,
            "SELECT image_id FROM images WHERE source_image_id = ?1 AND status = 'Creating'
             ORDER BY seq",
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
    let unused = query::count(
        tx.conn,
        "SELECT count(*) FROM images WHERE image_id = ?1 AND status = 'Deleted'
             AND NOT EXISTS (SELECT 1 FROM disks WHERE disks.image_id = ?1)
             AND NOT EXISTS (SELECT 1 FROM snapshots WHERE snapshots.image_id = ?1)",
        [image_id],
    )?;
    if unused > 0 {
        for statement in [
            "DELETE FROM image_disks WHERE image_id = ?1",
            "DELETE FROM images WHERE image_id = ?1",
        ] {
            tx.conn.prepare_cached(statement)?.execute([image_id])?;
        }
        security_groups::delete_tags(tx, image_id)?;
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
    if !filter.snapshot_id.is_empty() {
        conditions.and(
            "image_id IN (SELECT image_id FROM image_disks WHERE snapshot_id = ?)",
            [filter.snapshot_id.clone().into()],
        );
    }
    conditions.tags("image_id", &filter.tags);
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
            let mut image = with_disks(conn, image)?;
            image.tags = security_groups::tags_of(conn, &image.image_id)?;
            Ok((image, used > 0))
        })
        .collect::<Result<_, StoreError>>()?;
    Ok(Listed { items, total: listed.total, next: listed.next })
}
