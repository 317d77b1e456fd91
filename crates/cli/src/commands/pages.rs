//! Lists come in pages.

use crate::error::Result;

/// The largest page every list accepts.
pub(crate) const PAGE_SIZE: u32 = 50;

/// Calls for page 1, 2, ... until all of the total have come.
pub(crate) async fn all<T>(
    mut page: impl AsyncFnMut(u32) -> Result<(Vec<T>, u32)>,
) -> Result<Vec<T>> {
    let mut items = Vec::new();
    for number in 1.. {
        let (mut more, total) = page(number).await?;
        if more.is_empty() {
            break;
        }
        items.append(&mut more);
        if items.len() >= total as usize {
            break;
        }
    }
    Ok(items)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pages_end_at_the_total_or_at_an_empty_page() {
        let mut asked = 0;
        let items = all(async |page| {
            asked = page;
            Ok((vec![page; 2], 5))
        })
        .await
        .unwrap();
        assert_eq!((items.len(), asked), (6, 3));
        let items =
            all(async |page| Ok((if page == 1 { vec![1] } else { vec![] }, 9))).await.unwrap();
        assert_eq!(items, [1]);
    }
}
