// Settings in the browser's storage, which may be unavailable.

export function recall(name, otherwise = null) {
  try {
    return localStorage.getItem(`vistune.${name}`) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(`vistune.${name}`, value);
  } catch {
    // the setting lasts until the next reload
  }
}
