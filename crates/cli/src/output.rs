//! Tables for people, and one JSON object a line for programs.
//!
//! This is the one place that writes to standard output: what cannot be written is a
//! [`Failure`], and a reader that has gone is none.

use std::{
    env,
    fmt::Display,
    io::{self, IsTerminal, Write},
};

use clap::Args;
use comfy_table::{CellAlignment, ColumnConstraint, Table, Width, presets};
use serde::Serialize;

use crate::{failure::Failure, shown::printable_json};

/// How wide a table may be where no terminal says it.
const WIDTH: u16 = 100;
/// The least that is left to what is cut.
const LEAST: u16 = 16;
/// Between two columns.
const GAP: u16 = 2;

/// For whom a command prints.
#[derive(Debug, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct Output {
    /// Prints one JSON object a line, with names that stay
    #[arg(long, global = true)]
    pub(crate) json: bool,
}

/// A cell of a table.
#[derive(Debug)]
pub(crate) enum Cell {
    /// To the left, whole.
    Text(String),
    /// To the right.
    Number(String),
    /// As much as fits into the line. It stands last.
    Rest(String),
}

impl Cell {
    /// What is counted or measured.
    pub(crate) fn number(number: impl Display) -> Self {
        Self::Number(number.to_string())
    }

    /// What is neither.
    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// What there may be none of.
    pub(crate) fn any(text: Option<impl Display>) -> Self {
        Self::Text(text.map_or_else(|| "-".into(), |text| text.to_string()))
    }

    fn parts(self) -> (String, bool) {
        match self {
            Self::Text(text) => (text, false),
            // The rest of a large body would only take time.
            Self::Rest(text) => (text.chars().take(width().into()).collect(), false),
            Self::Number(text) => (text, true),
        }
    }
}

/// What is printed: as JSON its fields, in a table its columns.
pub(crate) trait Row: Serialize {
    /// The columns with their names, the same ones for all rows of a table.
    fn columns(&self) -> Vec<(&'static str, Cell)>;
}

impl Output {
    /// Prints records: an object or a row each. `nothing` is for people, where there are none.
    pub(crate) fn rows<R: Row>(&self, rows: &[R], nothing: &str) -> Result<(), Failure> {
        if self.json {
            let lines: Result<Vec<_>, _> = rows.iter().map(line).collect();
            return self.write(&lines?.concat());
        }
        if rows.is_empty() {
            self.note(nothing);
            return Ok(());
        }
        self.write(&table(rows.iter().map(Row::columns)))
    }

    /// Prints one record: an object, or its columns below each other.
    pub(crate) fn record<R: Row>(&self, record: &R) -> Result<(), Failure> {
        if self.json {
            return self.write(&line(record)?);
        }
        self.write(&details(record.columns()))
    }

    /// Prints what was done: an object, or a sentence.
    pub(crate) fn done(&self, record: &impl Serialize, said: impl Display) -> Result<(), Failure> {
        if self.json { self.write(&line(record)?) } else { self.write(&format!("{said}\n")) }
    }

    /// Prints a line for people alone.
    pub(crate) fn say(&self, said: impl Display) -> Result<(), Failure> {
        if self.json { Ok(()) } else { self.write(&format!("{said}\n")) }
    }

    /// Tells people, beside the output, what a program sees for itself.
    pub(crate) fn note(&self, said: impl Display) {
        if !self.json {
            let _ = writeln!(anstream::stderr(), "{said}"); // Or nobody wants to know.
        }
    }

    /// Writes at once: who reads it may wait for it.
    pub(crate) fn write(&self, text: &str) -> Result<(), Failure> {
        let written = if self.json {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        } else {
            let mut out = anstream::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        };
        Ok(written?)
    }
}

/// A record as JSON, on a line of its own.
pub(crate) fn line(record: &impl Serialize) -> Result<String, Failure> {
    let json =
        serde_json::to_string(record).map_err(|error| Failure::refused(error.to_string()))?;
    let mut line = printable_json(&json);
    line.push('\n');
    Ok(line)
}

/// How wide a line may be.
fn width() -> u16 {
    let said = env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    // Where there is no terminal, asking for its size would run `tput`, for each row.
    let of_terminal = || {
        let size = || crossterm::terminal::size().ok();
        io::stdout().is_terminal().then(size).flatten().map(|size| size.0)
    };
    said.or_else(of_terminal).filter(|width| *width > 0).unwrap_or(WIDTH)
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

fn text_of(table: &Table) -> Vec<String> {
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

fn cell((text, right): (String, bool)) -> comfy_table::Cell {
    let alignment = if right { CellAlignment::Right } else { CellAlignment::Left };
    comfy_table::Cell::new_owned(text).set_alignment(alignment)
}

/// Rows below their names.
fn table(rows: impl Iterator<Item = Vec<(&'static str, Cell)>>) -> String {
    let mut table = plain();
    let mut cuts = false;
    for row in rows {
        cuts |= matches!(row.last(), Some((_, Cell::Rest(_))));
        let (names, cells): (Vec<_>, Vec<_>) =
            row.into_iter().map(|(name, cell)| (name, cell.parts())).unzip();
        if table.header().is_none() {
            let names = names.iter().zip(&cells).map(|(name, (_, right))| ((*name).into(), *right));
            table.set_header(names.map(cell).collect::<Vec<_>>());
        }
        let mut row = comfy_table::Row::from(cells.into_iter().map(cell).collect::<Vec<_>>());
        row.max_height(1);
        table.add_row(row);
    }
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, GAP));
    });
    if cuts && let Some((_, others)) = table.column_max_content_widths().split_last() {
        let taken: u16 = others.iter().map(|width| width + GAP).sum();
        let most = width().saturating_sub(taken).max(LEAST) + GAP;
        if let Some(last) = table.column_mut(others.len()) {
            last.set_constraint(ColumnConstraint::UpperBoundary(Width::Fixed(most)));
        }
    }
    let mut lines = text_of(&table);
    if let Some(header) = lines.first_mut() {
        let style = anstyle::Style::new().bold();
        *header = format!("{style}{}{style:#}\n", header.trim_end());
    }
    lines.concat()
}

/// Names beside their values.
fn details(columns: Vec<(&'static str, Cell)>) -> String {
    let mut table = plain();
    for (name, value) in columns {
        table.add_row([cell((name.to_owned(), false)), cell((value.parts().0, false))]);
    }
    table.column_iter_mut().for_each(|column| {
        column.set_padding((0, GAP));
    });
    text_of(&table).concat()
}
