//! Frames: a length as varint, then a protobuf message of that length.

use prost::Message;

/// The largest message either side may send, in bytes.
pub const MAX_MESSAGE: usize = 1 << 20;
/// A varint of [`MAX_MESSAGE`] has no more bytes than this.
const MAX_PREFIX: usize = 4;

/// Why a stream of frames cannot be read on.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum FrameError {
    /// The length is no varint, or too large.
    #[error("a frame is longer than {MAX_MESSAGE} bytes, or its length is malformed")]
    Length,
    /// The bytes are not the message they should be.
    #[error("a frame does not hold the expected message: {0}")]
    Message(String),
}

/// A message as a frame.
pub fn encode<M: Message>(message: &M) -> Vec<u8> {
    message.encode_length_delimited_to_vec()
}

/// Collects bytes until they make a frame.
#[derive(Debug, Default)]
pub struct Decoder {
    pending: Vec<u8>,
}

impl Decoder {
    /// Takes bytes as they came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
    }

    /// Whether no part of a message is waiting for the rest.
    pub fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The next whole message, if all of it is there.
    ///
    /// # Errors
    /// [`FrameError`]; after that the stream is of no use.
    pub fn next_message<M: Message + Default>(&mut self) -> Result<Option<M>, FrameError> {
        let Some((length, prefix)) = self.length()? else { return Ok(None) };
        let Some(body) = self.pending.get(prefix..prefix + length) else { return Ok(None) };
        let message = M::decode(body).map_err(|error| FrameError::Message(error.to_string()))?;
        self.pending.drain(..prefix + length);
        Ok(Some(message))
    }

    fn length(&self) -> Result<Option<(usize, usize)>, FrameError> {
        let mut length = 0;
        for (index, byte) in self.pending.iter().take(MAX_PREFIX).enumerate() {
            length |= usize::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return if length > MAX_MESSAGE {
                    Err(FrameError::Length)
                } else {
                    Ok(Some((length, index + 1)))
                };
            }
        }
        if self.pending.len() >= MAX_PREFIX { Err(FrameError::Length) } else { Ok(None) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::vmm::{GetInfo, Request, request::Op};
    use proptest::prelude::*;

    fn request(id: u64) -> Request {
        Request { id, op: Some(Op::GetInfo(GetInfo {})) }
    }

    #[test]
    fn messages_come_out_whole_however_the_bytes_come_in() {
        let bytes: Vec<u8> = (1..=3).flat_map(|id| encode(&request(id * 1000))).collect();
        let mut decoder = Decoder::default();
        let mut seen = Vec::new();
        for byte in bytes {
            decoder.push(&[byte]);
            while let Some(message) = decoder.next_message::<Request>().unwrap() {
                seen.push(message.id);
            }
        }
        assert_eq!(seen, [1000, 2000, 3000]);
    }

    #[test]
    fn a_length_past_the_limit_is_refused_before_the_bytes_come() {
        let mut decoder = Decoder::default();
        decoder.push(&[0xff, 0xff, 0xff, 0x7f]);
        assert_eq!(decoder.next_message::<Request>(), Err(FrameError::Length));
        let mut decoder = Decoder::default();
        decoder.push(&[0x80; 4]);
        assert_eq!(decoder.next_message::<Request>(), Err(FrameError::Length));
    }

    proptest! {
        #[test]
        fn garbage_never_panics_and_never_holds_more_than_was_sent(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..32)
        ) {
            let mut decoder = Decoder::default();
            for chunk in chunks {
                decoder.push(&chunk);
                loop {
                    match decoder.next_message::<Request>() {
                        Ok(Some(_)) => {}
                        Ok(None) => break,
                        Err(_) => return Ok(()),
                    }
                }
            }
        }
    }
}
