"""What is known of remotes by their class: places, connections, URL lifetimes, opening."""
