//! The tables: as text, as JSON, and the most telling one as a chart.

use std::{collections::BTreeMap, fmt::Write, fs, path::Path, time::Duration};

use serde_json::{Map, Value, json};

use crate::Any;

/// What begins a step whose scripts are none of fairlane's.
pub(crate) const CONTROL: &str = "for comparison: ";

/// A target: what was measured, and what it should be at most.
struct Target {
    what: String,
    found: f64,
    most: f64,
    unit: &'static str,
}

/// What a run has found, in the order in which it was found.
pub(crate) struct Report {
    text: String,
    json: Map<String, Value>,
    /// What is drawn: names and numbers.
    bars: Vec<(String, f64)>,
    targets: Vec<Target>,
    /// Of each step: scripts of 1 ms or more, those of 5 ms or more, and the longest, in ms.
    scripts: Vec<(String, usize, usize, f64)>,
    values: BTreeMap<String, f64>,
}

impl Report {
    pub(crate) fn new(server: &str) -> Self {
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            cpu.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
        let machine = format!(
            "{server}; {cores} cores ({}), {} {}; client and server on the same machine, TCP on loopback",
            model.unwrap_or("model unknown"),
            std::env::consts::OS,
            std::env::consts::ARCH,
        );
        println!("{machine}\n");
        let mut json = Map::new();
        json.insert("machine".into(), json!(machine));
        Self {
            text: format!("{machine}\n"),
            json,
            bars: Vec::new(),
            targets: Vec::new(),
            scripts: Vec::new(),
            values: BTreeMap::new(),
        }
    }

    /// Says what begins.
    pub(crate) fn step(&mut self, step: usize, of: usize, what: &str) {
        eprintln!("[{step}/{of}] {what}");
    }

    pub(crate) fn progress(&self, what: &str) {
        eprintln!("      {what}");
    }

    /// Adds a table: a row each, its first field a name. Numbers are written as they are given.
    pub(crate) fn table(&mut self, title: &str, head: &[&str], rows: &[Vec<String>]) {
        assert!(rows.iter().all(|row| row.len() == head.len()));
        let mut lines = vec![head.iter().map(|field| (*field).to_owned()).collect::<Vec<_>>()];
        lines.push(head.iter().map(|_| "---".to_owned()).collect());
        lines.extend(rows.iter().cloned());
        let widths: Vec<usize> = (0..head.len())
            .map(|i| lines.iter().map(|line| line[i].chars().count()).max().unwrap_or(0))
            .collect();
        let mut text = format!("\n## {title}\n\n");
        for line in &lines {
            let fields = line.iter().zip(&widths);
            let fields = fields.map(|(field, width)| format!(" {field:<width$} "));
            let _ = writeln!(text, "|{}|", fields.collect::<Vec<_>>().join("|"));
        }
        print!("{text}");
        self.text += &text;
        let rows = rows.iter().map(|row| {
            let fields = head.iter().zip(row);
            let value = |field: &String| match field.replace(',', "").parse::<f64>() {
                Ok(number) => json!(number),
                Err(_) => json!(field),
            };
            Value::Object(fields.map(|(name, field)| ((*name).to_owned(), value(field))).collect())
        });
        self.json.insert(title.to_owned(), rows.collect());
    }

    pub(crate) fn bar(&mut self, what: impl Into<String>, value: f64) {
        self.bars.push((what.into(), value));
    }

    /// Compares with a target.
    pub(crate) fn target(
        &mut self,
        what: impl Into<String>,
        found: f64,
        most: f64,
        unit: &'static str,
    ) {
        self.targets.push(Target { what: what.into(), found, most, unit });
    }

    /// Takes note of the scripts that took 1 ms or more.
    pub(crate) fn scripts(&mut self, during: impl Into<String>, ms: &[f64]) {
        let above = ms.iter().filter(|ms| **ms >= 5.0).count();
        let longest = ms.first().copied().unwrap_or_default();
        self.scripts.push((during.into(), ms.len(), above, longest));
    }

    /// Keeps a number for a later step.
    pub(crate) fn keep(&mut self, what: &str, value: f64) {
        self.values.insert(what.to_owned(), value);
    }

    pub(crate) fn kept(&self, what: &str) -> f64 {
        self.values.get(what).copied().unwrap_or(f64::NAN)
    }

    /// Writes everything.
    pub(crate) fn finish(mut self, dir: &Path, took: Duration) -> Result<(), Any> {
        let scripts = std::mem::take(&mut self.scripts);
        let rows: Vec<_> = scripts
            .iter()
            .map(|(during, long, above, longest)| {
                vec![during.clone(), long.to_string(), above.to_string(), short(*longest)]
            })
            .collect();
        let head = ["during", "of 1 ms or more", "of 5 ms or more", "longest, ms"];
        self.table(
            "Long scripts, by the clock (the server may wait for a core meanwhile)",
            &head,
            &rows,
        );
        let own = scripts.iter().filter(|scripts| !scripts.0.starts_with(CONTROL));
        let longest = own.map(|scripts| scripts.3).fold(0.0, f64::max);
        self.target("longest single script in all of it", longest, 5.0, " ms");
        let rows: Vec<_> = std::mem::take(&mut self.targets)
            .into_iter()
            .map(|target| {
                let met = if target.found <= target.most { "met" } else { "missed" };
                let number = |number: f64| format!("{}{}", short(number), target.unit);
                vec![target.what, number(target.found), number(target.most), met.into()]
            })
            .collect();
        self.table("Targets", &["what", "measured", "at most", ""], &rows);
        self.json.insert("seconds".into(), json!(took.as_secs()));
        fs::create_dir_all(dir)?;
        fs::write(dir.join("results.json"), serde_json::to_string_pretty(&self.json)?)?;
        fs::write(dir.join("results.md"), &self.text)?;
        fs::write(dir.join("chart.svg"), chart(&self.bars))?;
        eprintln!(
            "\nThat took {} s; the tables, as Markdown and JSON, and a chart are in {}.",
            took.as_secs(),
            dir.display()
        );
        Ok(())
    }
}

/// Three digits that count, or all of a larger number.
pub(crate) fn short(number: f64) -> String {
    match number.abs() {
        100.0.. => format!("{number:.0}"),
        10.0.. => format!("{number:.1}"),
        _ => format!("{number:.2}"),
    }
}

/// Horizontal bars, one below the other.
fn chart(bars: &[(String, f64)]) -> String {
    const NAME: f64 = 330.0;
    const WIDTH: f64 = 480.0;
    let longest = bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
    let height = 50 + 26 * bars.len();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"900\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"10\" y=\"24\" font-size=\"15\">CPU of the server a message, in us \
         (1,000 facets, bodies of 100 bytes)</text>\n"
    );
    for (i, (what, value)) in bars.iter().enumerate() {
        let (y, width) = (44 + 26 * i, WIDTH * value / longest);
        let what = what.replace('&', "&amp;").replace('<', "&lt;");
        let color = if what.starts_with("list") { "#b0b0b0" } else { "#3b6ea5" };
        let _ = write!(
            svg,
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{what}</text>\n\
             <rect x=\"{NAME}\" y=\"{y}\" width=\"{width:.1}\" height=\"18\" fill=\"{color}\"/>\n\
             <text x=\"{:.1}\" y=\"{}\">{}</text>\n",
            NAME - 8.0,
            y + 14,
            NAME + width + 6.0,
            y + 14,
            short(*value),
        );
    }
    svg + "</svg>\n"
}
