//! What people and scripts see.

pub(crate) mod json;
pub(crate) mod progress;
pub(crate) mod table;

use clap::ValueEnum;

/// `-o`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputOption {
    /// A table for people
    #[default]
    Table,
    /// The table with every column
    Wide,
    /// The answer as JSON
    Json,
    /// Only ids, one a line
    Name,
    /// A drawing, of net topology only
    Svg,
}

impl OutputOption {
    /// How text is shown.
    pub(crate) fn format(self) -> Format {
        match self {
            Self::Table | Self::Svg => Format::Table,
            Self::Wide => Format::Wide,
            Self::Json => Format::Json,
            Self::Name => Format::Name,
        }
    }

    /// A drawing is wanted.
    pub(crate) fn is_svg(self) -> bool {
        self == Self::Svg
    }
}

/// How answers are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// A table for people.
    Table,
    /// The table with every column.
    Wide,
    /// The answer as JSON.
    Json,
    /// Only ids, one a line.
    Name,
}
