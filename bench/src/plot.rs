//! The results as a picture for the README: bars, in SVG, readable on a light and on a dark page.

use std::fmt::Write as _;

use crate::contender::{BEFORE, Contender};
use crate::measure::{looping, one_shot};
use crate::results::{Results, Row};
use crate::targets::best;

const WIDTH: f64 = 760.0;
/// Where bars begin; their names stand before.
const LEFT: f64 = 250.0;
/// Room for the number after the longest bar.
const RIGHT: f64 = 110.0;
const LINE: f64 = 24.0;
const BAR: f64 = 16.0;
const TITLE: f64 = 44.0;
const FOOT: f64 = 34.0;

/// Colours for both kinds of page: the text follows the reader's setting, the bars are of middle brightness.
const STYLE: &str = "text { font: 13px system-ui, sans-serif; fill: #24292f } .title { font-weight: 600 } \
    .note { font-size: 11px; fill: #57606a } .ours { fill: #2f81c7 } .theirs { fill: #8c959f } \
    @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .note { fill: #9198a1 } .theirs { fill: #6e7681 } }";

struct Chart<'a> {
    title: &'static str,
    rows: Vec<&'a Row>,
    scale: Scale,
}

/// Bars over three powers of ten would be invisible on a linear scale.
#[derive(Clone, Copy, PartialEq)]
enum Scale {
    Linear,
    Logarithmic,
}

pub fn svg(results: &Results, note: &str) -> String {
    let small = looping::rate_group(looping::SMALL);
    let peers = [
        Contender::LapinMultiple,
        Contender::Lapin,
        Contender::Cat,
        Contender::Native,
        Contender::Wasmtime,
        Contender::Python,
    ];
    let mut loops: Vec<&Row> = best(results, &small).into_iter().collect();
    loops.extend(peers.iter().filter_map(|peer| results.row(&small, &peer.name())));
    let is_start = |row: &&Row| row.group == one_shot::GROUP && !row.name.ends_with(BEFORE);
    let starts = results.rows.iter().filter(is_start).collect();
    let charts = [
        Chart {
            title: "Messages of 5 bytes per second (more is better; logarithmic)",
            rows: loops,
            scale: Scale::Logarithmic,
        },
        Chart { title: "One message, start to exit, ms (less is better)", rows: starts, scale: Scale::Linear },
    ];
    let height = charts.iter().map(|chart| TITLE + LINE * shown(chart).len() as f64).sum::<f64>() + FOOT;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" role=\"img\">\n\
         <title>wq-run and its peers</title>\n<style>{STYLE}</style>\n"
    );
    let mut y = 0.0;
    for chart in &charts {
        y = draw(&mut text, chart, y);
    }
    let _ = write!(text, "<text class=\"note\" x=\"8\" y=\"{}\">{}</text>\n</svg>\n", y + 24.0, escape(note));
    text
}

/// The rows that have a number: what failed has no bar.
fn shown(chart: &Chart<'_>) -> Vec<(String, String, f64)> {
    let number = |row: &&Row| Some((row.name.clone(), row.unit.show(row.median()?), row.median()?));
    let mut rows: Vec<_> = chart.rows.iter().filter_map(number).collect();
    rows.sort_by(|a, b| if chart.scale == Scale::Linear { a.2.total_cmp(&b.2) } else { b.2.total_cmp(&a.2) });
    rows
}

fn draw(text: &mut String, chart: &Chart<'_>, top: f64) -> f64 {
    let _ = writeln!(text, "<text class=\"title\" x=\"8\" y=\"{}\">{}</text>", top + 28.0, escape(chart.title));
    let rows = shown(chart);
    let size = |value: f64| match chart.scale {
        Scale::Linear => value,
        // A bar of no length is 10 a second.
        Scale::Logarithmic => (value / 10.0).max(1.0).log10(),
    };
    let longest = rows.iter().map(|row| size(row.2)).fold(f64::MIN_POSITIVE, f64::max);
    let mut y = top + TITLE;
    for (name, number, value) in rows {
        let length = (WIDTH - LEFT - RIGHT) * size(value) / longest;
        let class = if name.starts_with("wq-run") { "ours" } else { "theirs" };
        let baseline = y + 13.0;
        let _ = writeln!(
            text,
            "<text x=\"{}\" y=\"{baseline}\" text-anchor=\"end\">{}</text>\
             <rect class=\"{class}\" x=\"{LEFT}\" y=\"{y}\" width=\"{length:.1}\" height=\"{BAR}\" rx=\"2\"/>\
             <text x=\"{:.1}\" y=\"{baseline}\">{number}</text>",
            LEFT - 8.0,
            escape(&name),
            LEFT + length + 6.0,
        );
        y += LINE;
    }
    y
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contender::Build;
    use crate::results::Unit;

    #[test]
    fn a_bar_for_each_number_and_none_for_a_failure() {
        let mut results = Results::default();
        let group = looping::rate_group(looping::SMALL);
        results.add(&group, &Contender::WqRun { build: Build::Now, concurrency: 1 }.name(), Unit::Rate, Ok(5000.0));
        results.add(&group, &Contender::Cat.name(), Unit::Rate, Ok(500.0));
        results.add(&group, &Contender::Python.name(), Unit::Rate, Err("no Python".into()));
        let svg = svg(&results, "a <machine> & more");
        assert_eq!(svg.matches("<rect").count(), 2);
        assert!(svg.contains("a &lt;machine&gt; &amp; more"));
        // On the logarithmic scale from 10, 5,000 is 2.7 powers of ten and the longest bar; 500 is 1.7 of them.
        assert!(svg.contains("width=\"400.0\"") && svg.contains("width=\"251.8\""), "{svg}");
    }
}
