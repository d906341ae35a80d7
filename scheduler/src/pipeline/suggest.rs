//! Did you mean …?

/// The nearest of some words, as a hint; `None` when nothing is near.
#[must_use]
pub fn among<'a>(word: &str, words: impl Iterator<Item = &'a str>) -> Option<String> {
    nearest(word, words).map(|best| format!("did you mean `{best}`?"))
}

/// The nearest of some words; at most a third of it may differ.
#[must_use]
pub fn nearest<'a>(word: &str, words: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > 100 {
        return None;
    }
    let lower = word.to_lowercase();
    let limit = (word.chars().count() / 3).max(1);
    words
        .filter(|w| w.len().abs_diff(word.len()) <= limit + 1 && *w != word)
        .map(|w| (strsim::damerau_levenshtein(&lower, &w.to_lowercase()), w))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, w)| w)
}
