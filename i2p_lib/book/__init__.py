"""The book: executing the chapters, making the pages, building and checking the HTML."""
