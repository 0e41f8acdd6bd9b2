//! Colours, and what stands for them where there are none.

use ratatui::style::{Color, Modifier, Style};

/// What things look like: without colours where NO_COLOR is set to anything.
#[derive(Debug, Clone, Copy)]
pub(super) struct Theme {
    pub(super) colours: bool,
}

impl Theme {
    fn colour(self, colour: Color) -> Style {
        if self.colours { Style::new().fg(colour) } else { Style::new() }
    }

    pub(super) fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(super) fn quiet(self) -> Style {
        self.colour(Color::DarkGray)
    }

    pub(super) fn good(self) -> Style {
        self.colour(Color::Green)
    }

    pub(super) fn kept(self) -> Style {
        self.colour(Color::Yellow)
    }

    pub(super) fn bad(self) -> Style {
        self.colour(Color::Red)
    }

    /// Without colours, it stands back behind what was served.
    pub(super) fn delivered(self) -> Style {
        match self.colours {
            true => Style::new().fg(Color::Magenta),
            false => Style::new().add_modifier(Modifier::DIM),
        }
    }

    pub(super) fn served(self) -> Style {
        self.colour(Color::Cyan)
    }

    pub(super) fn cursor(self) -> Style {
        Style::new().fg(Color::Reset).add_modifier(Modifier::REVERSED)
    }
}
