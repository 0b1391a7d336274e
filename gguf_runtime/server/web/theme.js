// Runs before the first paint, so that a chosen theme does not flash; not a module for that reason.
try {
  const theme = localStorage.getItem("ggrun.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {
  // no storage: the system's theme
}
