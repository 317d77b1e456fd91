//! Result rows: one line of JSON each on the way, a table and files at the end.

use anyhow::{Context as _, Result, bail};
use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, fs, path::Path};

/// Marks a result line among console output.
pub const MARK: &str = "ECS-BENCH-ROW ";

/// What `make bench` must measure, whatever else it does.
const REQUIRED: [&str; 6] = [
    "boot_userland_vs_qemu",
    "vmm_memory_mib",
    "blk_rand_iops_vs_qemu",
    "blk_seq_vs_qemu",
    "net_throughput_vs_qemu",
    "net_latency_vs_qemu",
];

/// What a figure should be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// Smaller is better, and ours / peer is no more than this.
    RatioAtMost(f64),
    /// Larger is better, and ours / peer is no less than this.
    RatioAtLeast(f64),
    /// Ours is the peer's, up to this share of it.
    RatioWithin(f64),
    /// Smaller is better, and ours is below this, whatever the peer's is.
    OursBelow(f64),
}

impl Goal {
    fn met_by(self, ours: f64, ratio: f64) -> bool {
        match self {
            Self::RatioAtMost(most) => ratio <= most,
            Self::RatioAtLeast(least) => ratio >= least,
            Self::RatioWithin(share) => (ratio - 1.0).abs() <= share,
            Self::OursBelow(limit) => ours < limit,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RatioAtMost(most) => write!(f, "ratio <= {most}"),
            Self::RatioAtLeast(least) => write!(f, "ratio >= {least}"),
            Self::RatioWithin(share) => write!(f, "ratio 1 ± {share}"),
            Self::OursBelow(limit) => write!(f, "ours < {limit}"),
        }
    }
}

/// One figure: medians of both sides over the runs, and the ratio pair by pair.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// What is measured.
    pub name: String,
    /// Of `ours` and `peer`.
    pub unit: String,
    /// Median of ecs-vmm.
    pub ours: f64,
    /// Median of the peer.
    pub peer: f64,
    /// Median of ours / peer, pair by pair.
    pub ratio: f64,
    /// Pairs measured.
    pub runs: usize,
    /// Smallest ratio of a pair.
    pub min: f64,
    /// Largest ratio of a pair.
    pub max: f64,
    /// What the peer was.
    pub against: String,
    /// What it should be.
    pub goal: Goal,
    /// Whether it is.
    pub met: bool,
    /// File the row goes to.
    pub group: String,
}

impl Row {
    /// Builds a row from pairs of (ours, peer), which must not be empty.
    pub fn new(
        group: &str,
        name: &str,
        unit: &str,
        against: &str,
        goal: Goal,
        pairs: &[(f64, f64)],
    ) -> Self {
        let mut ratios: Vec<f64> = pairs.iter().map(|(ours, peer)| ours / peer).collect();
        ratios.sort_by(f64::total_cmp);
        let ours = median(pairs.iter().map(|pair| pair.0));
        let ratio = median(ratios.iter().copied());
        Self {
            name: name.to_owned(),
            unit: unit.to_owned(),
            ours,
            peer: median(pairs.iter().map(|pair| pair.1)),
            ratio,
            runs: pairs.len(),
            min: ratios.first().copied().unwrap_or(f64::NAN),
            max: ratios.last().copied().unwrap_or(f64::NAN),
            against: against.to_owned(),
            goal,
            met: goal.met_by(ours, ratio),
            group: group.to_owned(),
        }
    }

    /// Prints the row for `report` to pick up.
    pub fn print(&self) -> Result<()> {
        println!("{MARK}{}", serde_json::to_string(self)?);
        Ok(())
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// Prints the table of all rows in `input` and writes `out/<group>.json`. Unless `partial`, every
/// required figure must be there.
pub fn run(input: &Path, out: &Path, partial: bool) -> Result<()> {
    let text = fs::read(input).with_context(|| format!("read {}", input.display()))?;
    let text = String::from_utf8_lossy(&text);
    let mut groups: BTreeMap<String, Vec<Row>> = BTreeMap::new();
    for line in text.lines() {
        if let Some((_, json)) = line.split_once(MARK) {
            let row: Row = serde_json::from_str(json.trim())
                .with_context(|| format!("damaged result line: {line}"))?;
            groups.entry(row.group.clone()).or_default().push(row);
        }
    }
    if groups.is_empty() {
        bail!("{} holds no result: the measurement did not finish", input.display());
    }
    fs::create_dir_all(out)?;
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header([
        "name",
        "unit",
        "ours",
        "peer",
        "ours/peer",
        "min",
        "max",
        "runs",
        "goal",
        "met",
        "peer is",
    ]);
    for (group, rows) in &groups {
        for row in rows {
            table.add_row([
                row.name.clone(),
                row.unit.clone(),
                format!("{:.2}", row.ours),
                format!("{:.2}", row.peer),
                format!("{:.2}", row.ratio),
                format!("{:.2}", row.min),
                format!("{:.2}", row.max),
                row.runs.to_string(),
                row.goal.to_string(),
                if row.met { "yes" } else { "NO" }.to_owned(),
                row.against.clone(),
            ]);
        }
        let path = out.join(format!("{group}.json"));
        fs::write(&path, serde_json::to_vec_pretty(rows)?)
            .with_context(|| format!("write {}", path.display()))?;
    }
    println!("{table}");
    let rows = || groups.values().flatten();
    let missed: Vec<_> = rows().filter(|row| !row.met).map(|row| row.name.as_str()).collect();
    println!("goals met: {} of {}", rows().count() - missed.len(), rows().count());
    if !missed.is_empty() {
        println!("not met: {}", missed.join(", "));
    }
    let absent: Vec<_> =
        REQUIRED.into_iter().filter(|name| rows().all(|row| row.name != *name)).collect();
    if !partial && !absent.is_empty() {
        bail!("{} lacks {}: the measurement did not finish", input.display(), absent.join(", "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_takes_medians_and_ratios_pair_by_pair() {
        let row = Row::new(
            "g",
            "n",
            "u",
            "p",
            Goal::RatioAtMost(1.0),
            &[(1.0, 2.0), (3.0, 2.0), (2.0, 2.0)],
        );
        assert_eq!((row.ours, row.peer, row.ratio), (2.0, 2.0, 1.0));
        assert_eq!((row.min, row.max, row.runs), (0.5, 1.5, 3));
    }

    #[test]
    fn goals_are_about_the_ratio_or_about_ours() {
        let met = |goal| Row::new("g", "n", "u", "p", goal, &[(6.0, 8.0)]).met;
        assert!(met(Goal::RatioAtMost(0.75)) && !met(Goal::RatioAtMost(0.5)));
        assert!(met(Goal::RatioAtLeast(0.75)) && !met(Goal::RatioAtLeast(1.0)));
        assert!(met(Goal::RatioWithin(0.25)) && !met(Goal::RatioWithin(0.2)));
        assert!(met(Goal::OursBelow(6.5)) && !met(Goal::OursBelow(6.0)));
    }

    #[test]
    fn rows_survive_console_noise_and_land_in_their_group() {
        let dir = std::env::temp_dir().join(format!("ecs-bench-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let row = Row::new("boot", REQUIRED[0], "u", "p", Goal::RatioAtMost(0.5), &[(1.0, 2.0)]);
        let line = format!("noise\n[ 1.0] {MARK}{}\r\n", serde_json::to_string(&row).unwrap());
        fs::write(dir.join("in"), line).unwrap();
        run(&dir.join("in"), &dir.join("out"), true).unwrap();
        let error = run(&dir.join("in"), &dir.join("out"), false).unwrap_err().to_string();
        assert!(error.contains("vmm_memory_mib") && !error.contains(REQUIRED[0]), "{error}");
        let rows: Vec<Row> =
            serde_json::from_slice(&fs::read(dir.join("out/boot.json")).unwrap()).unwrap();
        assert_eq!((rows[0].ratio, rows[0].met), (0.5, true));
        fs::write(dir.join("empty"), "noise\n").unwrap();
        assert!(run(&dir.join("empty"), &dir.join("out"), true).is_err());
        fs::remove_dir_all(&dir).unwrap();
    }
}
