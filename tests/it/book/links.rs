//! Links between the pages: each leads to a file of the project, and to a heading that is there.

use std::collections::BTreeSet;

use super::{pages, read};
use crate::harness::root;

/// The lines outside of blocks, without what stands in backquotes.
fn prose(text: &str) -> impl Iterator<Item = String> {
    let mut is_open = false;
    let outside = text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_open ^= is_fence;
        !is_open && !is_fence
    });
    outside.map(|line| line.split('`').step_by(2).collect::<Vec<_>>().join("`"))
}

fn links(text: &str) -> Vec<String> {
    let of_line = |line: String| {
        let links = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        links.map(|(link, _)| link.to_owned()).collect::<Vec<_>>()
    };
    prose(text).flat_map(of_line).collect()
}

/// The names by which a forge links to the headings of a page.
fn headings(text: &str) -> BTreeSet<String> {
    let mut is_open = false;
    let mut names = BTreeSet::new();
    for line in text.lines() {
        is_open ^= line.starts_with("```");
        let Some(heading) = line.strip_prefix('#').filter(|_| !is_open) else { continue };
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
        names.insert(kept.map(|c| if c == ' ' { '-' } else { c }).collect());
    }
    names
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let mut wrong = Vec::new();
    for page in pages() {
        let text = read(&page);
        for link in links(&text) {
            if ["http://", "https://"].iter().any(|scheme| link.starts_with(scheme)) {
                continue;
            }
            let (path, heading) = link.split_once('#').unwrap_or((&link, ""));
            let file = root().join(&page);
            let file = if path.is_empty() { file } else { file.parent().unwrap().join(path) };
            if !file.exists() {
                wrong.push(format!("{page}: {link}: there is no such file"));
            } else if !heading.is_empty() && !headings(&std::fs::read_to_string(&file).unwrap()).contains(heading) {
                wrong.push(format!("{page}: {link}: there is no such heading"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A page that nothing leads to is not found by its readers.
#[test]
fn every_page_is_in_the_book() {
    let summary = links(&read("docs/SUMMARY.md"));
    let all = pages().into_iter().filter_map(|page| Some(page.strip_prefix("docs/")?.to_owned()));
    let missing: Vec<String> = all.filter(|page| page != "SUMMARY.md" && !summary.contains(page)).collect();
    assert!(missing.is_empty(), "docs/SUMMARY.md lacks {missing:?}");
}

#[test]
fn links_and_headings_are_found_as_a_forge_finds_them() {
    let text = "# A guest's `exit` code\n[a](b.md#c) and `[no](link)`\n```\n# no\n[no](x)\n```\n[d](e)[f](g)\n";
    assert_eq!(links(text), ["b.md#c", "e", "g"]);
    assert_eq!(headings(text).into_iter().collect::<Vec<_>>(), ["a-guests-exit-code"]);
}
