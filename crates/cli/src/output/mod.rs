//! What people and scripts see.

pub(crate) mod json;
pub(crate) mod progress;
pub(crate) mod table;

use clap::ValueEnum;

/// `-o`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A table for people
    #[default]
    Table,
    /// The table with every column
    Wide,
    /// The answer as JSON
    Json,
    /// Only ids, one a line
    Name,
}
