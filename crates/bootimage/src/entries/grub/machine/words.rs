//! The words of a command, with the values of variables.

use super::super::script::{Piece, Word};
use super::{Machine, STEPS, WORD_BYTES, too_large};
use crate::error::Error;

/// Bytes of expanded words that count as one statement, and what a word costs besides its text.
const STEP_BYTES: usize = 256;
const WORD_COST: usize = 64;

impl Machine<'_> {
    /// The words of a command with the values of variables. What they take counts as steps, as a
    /// short script can name a long value any number of times.
    pub(super) fn expand(&mut self, words: &[Word]) -> Result<Vec<String>, Error> {
        let steps = STEPS.saturating_sub(self.steps) as usize;
        let mut expanded = Expanded { words: Vec::new(), bytes: 0 };
        for word in words {
            // `None`: no word yet, so that an empty unquoted variable is no word at all.
            let mut text: Option<String> = None;
            for piece in word {
                match piece {
                    Piece::Text(piece) => expanded.push(&mut text, piece),
                    Piece::Variable { name, quoted: true } => {
                        expanded.push(&mut text, self.get(name));
                    }
                    Piece::Variable { name, quoted: false } => {
                        for (index, part) in self.get(name).split_whitespace().enumerate() {
                            if index > 0 {
                                expanded.end(text.take());
                            }
                            expanded.push(&mut text, part);
                        }
                    }
                }
                if expanded.bytes / STEP_BYTES > steps {
                    return Err(too_large("words", STEPS));
                }
            }
            expanded.end(text);
        }
        self.steps += u32::try_from(expanded.bytes / STEP_BYTES).unwrap_or(STEPS);
        Ok(expanded.words)
    }
}

/// Words on their way, and the memory they take.
struct Expanded {
    words: Vec<String>,
    bytes: usize,
}

impl Expanded {
    /// Adds to a word, up to the largest there may be.
    fn push(&mut self, text: &mut Option<String>, more: &str) {
        let text = text.get_or_insert_default();
        if text.len() + more.len() <= WORD_BYTES {
            text.push_str(more);
            self.bytes += more.len();
        }
    }

    fn end(&mut self, text: Option<String>) {
        self.bytes += WORD_COST;
        self.words.extend(text);
    }
}
