//! Everything that waits goes into one message; nothing waits for a message to fill.

use tokio::sync::mpsc;

/// Items in one message.
pub(crate) const BATCH_ITEMS_MAX: usize = 512;

/// A message is closed when it has this many bytes; the last item may lead beyond.
pub(crate) const BATCH_BYTES_MAX: usize = 1 << 20;

/// The next items, one at least; `None` when the queue is closed and empty. Who stops waiting for them loses none: nothing is
/// awaited once there is a first.
pub(crate) async fn next_batch<T>(
    queue: &mut mpsc::Receiver<T>,
    bytes: impl Fn(&T) -> usize,
) -> Option<Vec<T>> {
    let first = queue.recv().await?;
    let mut size = bytes(&first);
    let mut batch = vec![first];
    while batch.len() < BATCH_ITEMS_MAX && size < BATCH_BYTES_MAX {
        let Ok(item) = queue.try_recv() else { break };
        size += bytes(&item);
        batch.push(item);
    }
    Some(batch)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_waits_comes_together_and_big_items_close_the_batch() {
        let (send, mut queue) = mpsc::channel(1024);
        for _ in 0..3 {
            send.send(10).await.unwrap();
        }
        for _ in 0..3 {
            send.send(BATCH_BYTES_MAX).await.unwrap();
        }
        for _ in 0..=BATCH_ITEMS_MAX {
            send.send(0).await.unwrap();
        }
        drop(send);
        let mut sizes = Vec::new();
        while let Some(batch) = next_batch(&mut queue, |bytes| *bytes).await {
            sizes.push(batch.len());
        }
        assert_eq!(sizes, [4, 1, 1, BATCH_ITEMS_MAX, 1]);
    }
}
